# Target ziya::cuda: every kernel of the CUDA backend in a static library, compiled for
# CMAKE_CUDA_ARCHITECTURES (90a where nothing is said: `wgmma` needs the a), and what ziya::compiled
# holds. Needs ziya::ziya.
# ziya_add_cuda(<folder with ziya/backend/cuda/instances.cu>)
macro(ziya_add_cuda include_directory)
  if(NOT DEFINED CMAKE_CUDA_ARCHITECTURES)
    set(CMAKE_CUDA_ARCHITECTURES 90a)
  endif()
  find_program(ZIYA_NVCC nvcc HINTS ENV CUDA_PATH PATH_SUFFIXES bin PATHS /usr/local/cuda/bin)
  mark_as_advanced(ZIYA_NVCC)
  if(ZIYA_NVCC AND NOT CMAKE_CUDA_COMPILER)
    set(CMAKE_CUDA_COMPILER ${ZIYA_NVCC})
  endif()
  enable_language(CUDA)
  find_package(CUDAToolkit 12.3 REQUIRED)
  add_library(ziya_cuda STATIC ${include_directory}/ziya/backend/cuda/instances_f16.cu
                               ${include_directory}/ziya/backend/cuda/instances_bf16.cu
                               ${include_directory}/ziya/backend/cuda/instances.cu
                               ${include_directory}/ziya/instances.cpp)
  add_library(ziya::cuda ALIAS ziya_cuda)
  # The switch changes the library's ABI namespace: it must be the same in a whole program.
  target_compile_definitions(ziya_cuda PUBLIC ZIYA_WITH_CUDA=1 ZIYA_COMPILED=1)
  # CMake before 3.31 does not know C++20 for every nvcc.
  target_compile_options(ziya_cuda PUBLIC $<$<COMPILE_LANGUAGE:CUDA>:-std=c++20>)
  target_link_libraries(ziya_cuda PUBLIC ziya::ziya CUDA::cudart_static CUDA::cublasLt)
  set_target_properties(ziya_cuda PROPERTIES POSITION_INDEPENDENT_CODE ON)
endmacro()
