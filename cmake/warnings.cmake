# Warnings for the project's own programs and tests; never forced on those who embed the library.
function(ziya_warnings target)
  target_compile_options(${target} PRIVATE -Wall -Wextra -Wpedantic -Wshadow -Wconversion -Wno-sign-conversion)
endfunction()
