// CPU kernels for sparse attention, over the tile kernels of dense attention.
#ifndef MLA_KERNELS_CPU_SPARSE_H_
#define MLA_KERNELS_CPU_SPARSE_H_

#include <string_view>

#include "mla/sparse.h"

namespace mla::cpu {

std::string_view SimdRefusesMlaIndexTopk(const MlaIndexTopkArgs& args, const Context& context);
Status RunSimdMlaIndexTopk(const MlaIndexTopkArgs& args, const Context& context);

std::string_view SimdRefusesMlaSparse(const MlaSparseArgs& args, const Context& context);
Status RunSimdMlaSparse(const MlaSparseArgs& args, const Context& context);
std::string_view Avx512Bf16RefusesMlaSparse(const MlaSparseArgs& args, const Context& context);
Status RunAvx512Bf16MlaSparse(const MlaSparseArgs& args, const Context& context);
std::string_view AmxRefusesMlaSparse(const MlaSparseArgs& args, const Context& context);
Status RunAmxMlaSparse(const MlaSparseArgs& args, const Context& context);
std::string_view Avx512VnniRefusesMlaSparse(const MlaSparseArgs& args, const Context& context);
Status RunAvx512VnniMlaSparse(const MlaSparseArgs& args, const Context& context);

}  // namespace mla::cpu

#endif  // MLA_KERNELS_CPU_SPARSE_H_
