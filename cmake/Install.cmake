# `cmake --install`: the operators for other projects, which find_package(mla) finds. The headers,
# the static libraries for C++ (mla::ops), and libmla.so behind the C interface (mla::shared).
include(CMakePackageConfigHelpers)
include(GNUInstallDirs)

set(MLA_INSTALLED mla_core mla_cuda mla_ops)
set_target_properties(mla_core PROPERTIES EXPORT_NAME core)
set_target_properties(mla_cuda PROPERTIES EXPORT_NAME cuda)
set_target_properties(mla_ops PROPERTIES EXPORT_NAME ops)
if(TARGET mla_shared)
  list(APPEND MLA_INSTALLED mla_shared)
  set_target_properties(mla_shared PROPERTIES EXPORT_NAME shared)
endif()

set(MLA_PACKAGE_DIR ${CMAKE_INSTALL_LIBDIR}/cmake/mla)
install(TARGETS ${MLA_INSTALLED} EXPORT mla COMPONENT dev
  ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR} LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR}
  INCLUDES DESTINATION ${CMAKE_INSTALL_INCLUDEDIR})
install(DIRECTORY include/mla DESTINATION ${CMAKE_INSTALL_INCLUDEDIR} COMPONENT dev)
install(EXPORT mla NAMESPACE mla:: FILE mlaTargets.cmake DESTINATION ${MLA_PACKAGE_DIR}
  COMPONENT dev)
configure_package_config_file(cmake/mlaConfig.cmake.in ${PROJECT_BINARY_DIR}/mlaConfig.cmake
  INSTALL_DESTINATION ${MLA_PACKAGE_DIR})
# Below 1.0 nothing promises that another minor version is the same interface.
write_basic_package_version_file(${PROJECT_BINARY_DIR}/mlaConfigVersion.cmake
  COMPATIBILITY SameMinorVersion)
install(FILES ${PROJECT_BINARY_DIR}/mlaConfig.cmake ${PROJECT_BINARY_DIR}/mlaConfigVersion.cmake
  DESTINATION ${MLA_PACKAGE_DIR} COMPONENT dev)
