// Why the rotated part of a key cannot come from the latent: with a rotation between them, W_UK
// and the query have no one product that serves every distance.
#include <array>
#include <cmath>
#include <cstdio>

namespace {

using Vector = std::array<double, 2>;
using Matrix = std::array<Vector, 2>;

Vector Times(const Matrix& m, const Vector& v) {
  return {m[0][0] * v[0] + m[0][1] * v[1], m[1][0] * v[0] + m[1][1] * v[1]};
}
Vector TimesTransposed(const Matrix& m, const Vector& v) {
  return {m[0][0] * v[0] + m[1][0] * v[1], m[0][1] * v[0] + m[1][1] * v[1]};
}
Matrix Turn(double angle) {
  return {{{std::cos(angle), -std::sin(angle)}, {std::sin(angle), std::cos(angle)}}};
}

}  // namespace

int main() {
  const Matrix w_uk = {{{1, 2}, {0, 1}}};
  const Vector q = {1, 0.5}, latent = {0.3, -0.7};
  for (const int distance : {0, 1, 2}) {
    // What RoPE on an up-projected key would ask for: q^T R(-distance) W_UK c.
    const Vector key = Times(Turn(-distance), Times(w_uk, latent));
    const double want = q[0] * key[0] + q[1] * key[1];
    // What one absorbed query gives: (W_UK^T q)^T c, then the rotation on the latent.
    const Vector absorbed = TimesTransposed(w_uk, q);
    const Vector turned = Times(Turn(-distance), latent);
    const double got = absorbed[0] * turned[0] + absorbed[1] * turned[1];
    std::printf("distance %d: score %7.4f, rotating the latent instead %7.4f\n", distance, want,
                got);
  }
}
