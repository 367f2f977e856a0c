# What a program that runs models needs: Eigen, nlohmann/json, SentencePiece, threads; and for one
# that converts (ziya::convert) OpenSSL, which is optional here.
# find_package first; FetchContent only where asked for (ZIYA_FETCH_DEPENDENCIES).
find_package(Threads REQUIRED)

set(ziya_required REQUIRED)
if(ZIYA_FETCH_DEPENDENCIES)
  set(ziya_required)
endif()

find_package(Eigen3 3.4 ${ziya_required} NO_MODULE)
find_package(nlohmann_json 3.9 ${ziya_required})
find_package(SentencePiece 0.1.97 ${ziya_required})
find_package(OpenSSL 1.1.1 QUIET)

if(ZIYA_FETCH_DEPENDENCIES)
  include(FetchContent)
  if(NOT TARGET Eigen3::Eigen)
    FetchContent_Declare(eigen GIT_REPOSITORY https://gitlab.com/libeigen/eigen.git GIT_TAG 3.4.0)
    FetchContent_MakeAvailable(eigen)
  endif()
  if(NOT TARGET nlohmann_json::nlohmann_json)
    FetchContent_Declare(json GIT_REPOSITORY https://github.com/nlohmann/json.git GIT_TAG v3.11.2)
    FetchContent_MakeAvailable(json)
  endif()
  if(NOT TARGET SentencePiece::SentencePiece)
    set(SPM_ENABLE_SHARED OFF)
    FetchContent_Declare(sentencepiece
                         GIT_REPOSITORY https://github.com/google/sentencepiece.git GIT_TAG v0.1.97)
    FetchContent_MakeAvailable(sentencepiece)
    add_library(ziya_sentencepiece INTERFACE)
    target_include_directories(ziya_sentencepiece INTERFACE "${sentencepiece_SOURCE_DIR}/src")
    target_link_libraries(ziya_sentencepiece INTERFACE sentencepiece-static)
    add_library(SentencePiece::SentencePiece ALIAS ziya_sentencepiece)
  endif()
endif()
