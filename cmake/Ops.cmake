# The operators on the CPU: no third-party library but Highway in kernels/cpu.
file(GLOB MLA_OPS_SOURCES CONFIGURE_DEPENDS
  src/kernels/reference/*.cc src/kernels/cpu/*.cc src/dispatch/*.cc src/kvcache/*.cc)
add_library(mla_ops STATIC ${MLA_OPS_SOURCES})
target_include_directories(mla_ops PRIVATE src)
target_link_libraries(mla_ops PUBLIC mla_core mla_cuda PRIVATE PkgConfig::hwy)
