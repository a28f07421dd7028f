// AMX: whether it may be used.
#ifndef MLA_KERNELS_CPU_AMX_H_
#define MLA_KERNELS_CPU_AMX_H_

namespace mla::cpu {

// True if the processor has AMX tiles with bf16 products, and the operating system lets this
// process use them (Linux from 5.16 on wants to be asked, which this does).
bool HasAmxBf16();

}  // namespace mla::cpu

#endif  // MLA_KERNELS_CPU_AMX_H_
