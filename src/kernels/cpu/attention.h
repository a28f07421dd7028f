// CPU kernels for attention. See src/dispatch for the order they are tried in.
#ifndef MLA_KERNELS_CPU_ATTENTION_H_
#define MLA_KERNELS_CPU_ATTENTION_H_

#include <string_view>

#include "mla/attention.h"

namespace mla::cpu {

// Highway, fp32 arithmetic, any instruction set; caches in f32, f16 or bf16, latents also in int8.
std::string_view SimdRefusesMlaAbsorbed(const MlaAbsorbedArgs& args, const Context& context);
Status RunSimdMlaAbsorbed(const MlaAbsorbedArgs& args, const Context& context);
std::string_view SimdRefusesMlaExpanded(const MlaExpandedArgs& args, const Context& context);
Status RunSimdMlaExpanded(const MlaExpandedArgs& args, const Context& context);
std::string_view SimdRefusesGqa(const GqaArgs& args, const Context& context);
Status RunSimdGqa(const GqaArgs& args, const Context& context);

// AVX512_BF16 dot products: ComputeMode::kBF16 with a bf16 cache or int8 latents, which are rounded
// to bf16 (and bf16 weights in MlaExpanded).
std::string_view Avx512Bf16RefusesMlaAbsorbed(const MlaAbsorbedArgs& args, const Context& context);
Status RunAvx512Bf16MlaAbsorbed(const MlaAbsorbedArgs& args, const Context& context);
std::string_view Avx512Bf16RefusesMlaExpanded(const MlaExpandedArgs& args, const Context& context);
Status RunAvx512Bf16MlaExpanded(const MlaExpandedArgs& args, const Context& context);
std::string_view Avx512Bf16RefusesGqa(const GqaArgs& args, const Context& context);
Status RunAvx512Bf16Gqa(const GqaArgs& args, const Context& context);

// AMX tiles: as the AVX512_BF16 kernels, but for int8 latents in MlaAbsorbed.
std::string_view AmxRefusesMlaAbsorbed(const MlaAbsorbedArgs& args, const Context& context);
Status RunAmxMlaAbsorbed(const MlaAbsorbedArgs& args, const Context& context);
std::string_view AmxRefusesMlaExpanded(const MlaExpandedArgs& args, const Context& context);
Status RunAmxMlaExpanded(const MlaExpandedArgs& args, const Context& context);
std::string_view AmxRefusesGqa(const GqaArgs& args, const Context& context);
Status RunAmxGqa(const GqaArgs& args, const Context& context);

// AVX512_VNNI dot products with the codes of int8 latents: ComputeMode::kBF16.
std::string_view Avx512VnniRefusesMlaAbsorbed(const MlaAbsorbedArgs& args, const Context& context);
Status RunAvx512VnniMlaAbsorbed(const MlaAbsorbedArgs& args, const Context& context);

}  // namespace mla::cpu

#endif  // MLA_KERNELS_CPU_ATTENTION_H_
