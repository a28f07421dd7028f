# Compiles for 64-bit ARM on another machine and runs the tests in qemu-user. MLA_ARM_ROOT: a folder
# with the ARM packages of the libraries that are used (./dev test neon makes it).
set(CMAKE_SYSTEM_NAME Linux)
set(CMAKE_SYSTEM_PROCESSOR aarch64)
set(CMAKE_C_COMPILER aarch64-linux-gnu-gcc)
set(CMAKE_CXX_COMPILER aarch64-linux-gnu-g++)
set(CMAKE_CROSSCOMPILING_EMULATOR qemu-aarch64-static -L /usr/aarch64-linux-gnu
  -E LD_LIBRARY_PATH=${MLA_ARM_ROOT}/usr/lib/aarch64-linux-gnu)
set(CMAKE_TRY_COMPILE_PLATFORM_VARIABLES MLA_ARM_ROOT)
set(ENV{PKG_CONFIG_SYSROOT_DIR} ${MLA_ARM_ROOT})
set(ENV{PKG_CONFIG_LIBDIR} ${MLA_ARM_ROOT}/usr/lib/aarch64-linux-gnu/pkgconfig)
