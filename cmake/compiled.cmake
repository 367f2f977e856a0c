# Target ziya::compiled: ziya::ziya with its long functions compiled once, in a static library that
# is only built where a program links it. Needs ziya::ziya.
# ziya_add_compiled(<folder with ziya/instances.cpp>)
function(ziya_add_compiled include_directory)
  add_library(ziya_compiled STATIC EXCLUDE_FROM_ALL ${include_directory}/ziya/instances.cpp)
  add_library(ziya::compiled ALIAS ziya_compiled)
  target_compile_definitions(ziya_compiled PUBLIC ZIYA_COMPILED=1)
  target_link_libraries(ziya_compiled PUBLIC ziya::ziya)
  set_target_properties(ziya_compiled PROPERTIES POSITION_INDEPENDENT_CODE ON)
endfunction()
