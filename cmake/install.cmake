# An installed copy that find_package(ziya) finds.
include(GNUInstallDirs)
include(CMakePackageConfigHelpers)

set(ziya_config_dir ${CMAKE_INSTALL_LIBDIR}/cmake/ziya)
install(DIRECTORY include/ziya DESTINATION ${CMAKE_INSTALL_INCLUDEDIR})
install(TARGETS ziya EXPORT ziyaTargets)
if(TARGET ziya_convert)
  install(TARGETS ziya_convert EXPORT ziyaTargets)
endif()
install(EXPORT ziyaTargets NAMESPACE ziya:: DESTINATION ${ziya_config_dir})
export(EXPORT ziyaTargets NAMESPACE ziya:: FILE "${CMAKE_CURRENT_BINARY_DIR}/ziyaTargets.cmake")

configure_package_config_file(cmake/ziyaConfig.cmake.in "${CMAKE_CURRENT_BINARY_DIR}/ziyaConfig.cmake"
                              INSTALL_DESTINATION ${ziya_config_dir})
write_basic_package_version_file("${CMAKE_CURRENT_BINARY_DIR}/ziyaConfigVersion.cmake"
                                 COMPATIBILITY SameMinorVersion ARCH_INDEPENDENT)
install(FILES "${CMAKE_CURRENT_BINARY_DIR}/ziyaConfig.cmake"
              "${CMAKE_CURRENT_BINARY_DIR}/ziyaConfigVersion.cmake" cmake/FindSentencePiece.cmake cmake/compiled.cmake
              cmake/cuda.cmake
        DESTINATION ${ziya_config_dir})
install(FILES LICENSE NOTICE DESTINATION ${CMAKE_INSTALL_DOCDIR})
# find_package(ziya) on the build folder needs the modules beside the config.
configure_file(cmake/compiled.cmake "${CMAKE_CURRENT_BINARY_DIR}/compiled.cmake" COPYONLY)
configure_file(cmake/cuda.cmake "${CMAKE_CURRENT_BINARY_DIR}/cuda.cmake" COPYONLY)
configure_file(cmake/FindSentencePiece.cmake "${CMAKE_CURRENT_BINARY_DIR}/FindSentencePiece.cmake" COPYONLY)
