# libmla.so: the operators behind the C interface of include/mla/mla.h, which is all it exports.

if(NOT TARGET mla_ops)
  # Alone, as the Python package builds it, it makes do without Highway.
  find_package(PkgConfig)
  if(PkgConfig_FOUND)
    pkg_check_modules(hwy IMPORTED_TARGET libhwy)
  endif()
  if(TARGET PkgConfig::hwy)
    include(cmake/Ops.cmake)
  else()
    message(STATUS "No Highway (libhwy) found: on the CPU, libmla.so has the reference kernels alone")
    file(GLOB MLA_OPS_SOURCES CONFIGURE_DEPENDS src/dispatch/portable/*.cc)
    add_library(mla_ops STATIC src/kernels/reference/attention.cc
      src/kernels/reference/elementwise.cc src/kernels/reference/linear.cc ${MLA_OPS_SOURCES})
    target_include_directories(mla_ops PRIVATE src)
    target_link_libraries(mla_ops PUBLIC mla_core mla_cuda)
  endif()
endif()

file(GLOB MLA_CAPI_SOURCES CONFIGURE_DEPENDS src/capi/*.cc)
if(MLA_HAVE_CUDA)
  list(APPEND MLA_CAPI_SOURCES src/capi/cuda/device.cc)
  set(MLA_SHARED_ARCHITECTURES ${MLA_CUDA_ARCHITECTURES})
else()
  list(APPEND MLA_CAPI_SOURCES src/capi/cuda/absent.cc)
  set(MLA_SHARED_ARCHITECTURES "")
endif()
add_library(mla_shared SHARED ${MLA_CAPI_SOURCES})
set_target_properties(mla_shared PROPERTIES
  OUTPUT_NAME mla CXX_VISIBILITY_PRESET hidden VISIBILITY_INLINES_HIDDEN ON
  LINK_DEPENDS ${CMAKE_CURRENT_LIST_DIR}/libmla.map)
# The semicolons of a list would end the definition.
list(JOIN MLA_SHARED_ARCHITECTURES " " MLA_SHARED_ARCHITECTURES)
set_source_files_properties(src/capi/library.cc PROPERTIES COMPILE_DEFINITIONS
  "MLA_VERSION=\"${PROJECT_VERSION}\";MLA_CUDA_ARCHITECTURES=\"${MLA_SHARED_ARCHITECTURES}\"")
target_include_directories(mla_shared
  PUBLIC $<BUILD_INTERFACE:${PROJECT_SOURCE_DIR}/include> $<INSTALL_INTERFACE:include> PRIVATE src)
target_link_libraries(mla_shared PRIVATE mla_ops)
target_link_options(mla_shared PRIVATE
  "LINKER:--version-script=${CMAKE_CURRENT_LIST_DIR}/libmla.map" "LINKER:--gc-sections")
if(NOT MLA_SANITIZE)
  # Two C++ libraries in one process (PyTorch brings its own) do not meet.
  target_link_options(mla_shared PRIVATE "LINKER:--no-undefined" -static-libstdc++ -static-libgcc)
endif()
