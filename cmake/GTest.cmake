# GTest::gtest and GTest::gtest_main: the installed ones, or from GoogleTest's source tree where there
# are none for this machine.
set(MLA_GTEST_SOURCE "" CACHE PATH "GoogleTest's source tree; empty: the installed GoogleTest")
if(MLA_GTEST_SOURCE)
  set(INSTALL_GTEST OFF)
  set(BUILD_GMOCK OFF)
  add_subdirectory(${MLA_GTEST_SOURCE} ${PROJECT_BINARY_DIR}/gtest EXCLUDE_FROM_ALL)
  target_compile_options(gtest PRIVATE -w)  # its warnings are not ours
else()
  find_package(GTest REQUIRED)
endif()
