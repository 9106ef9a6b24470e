# One place for compiler flags: warnings as errors for our own code, sanitizers, mold and ccache when present.
find_program(PENSTOCK_CCACHE ccache)
if(PENSTOCK_CCACHE AND NOT CMAKE_CXX_COMPILER_LAUNCHER)
  set(CMAKE_C_COMPILER_LAUNCHER "${PENSTOCK_CCACHE}")
  set(CMAKE_CXX_COMPILER_LAUNCHER "${PENSTOCK_CCACHE}")
endif()
find_program(PENSTOCK_MOLD mold)
if(PENSTOCK_MOLD)
  add_link_options(-fuse-ld=mold)
endif()

if(PENSTOCK_SANITIZE)
  # An address build checks for undefined behaviour too: the two go together, and one build is cheaper than two.
  string(REGEX REPLACE "^address$" "address,undefined" penstock_sanitizers "${PENSTOCK_SANITIZE}")
  add_compile_options(-fsanitize=${penstock_sanitizers} -fno-sanitize-recover=all -fno-omit-frame-pointer)
  add_link_options(-fsanitize=${penstock_sanitizers})
  # -O2 doubles the time that instrumented code takes to compile.
  set(CMAKE_CXX_FLAGS_RELWITHDEBINFO "-O1 -g1")
  set(CMAKE_C_FLAGS_RELWITHDEBINFO "-O1 -g1")
endif()

# A fuzzing build: all our code is watched by libFuzzer (coverage) and by the address and undefined sanitizers.
if(PENSTOCK_BUILD_FUZZERS)
  if(NOT CMAKE_CXX_COMPILER_ID STREQUAL "Clang")
    message(FATAL_ERROR "PENSTOCK_BUILD_FUZZERS needs clang: CC=clang-14 CXX=clang++-14 (tests/fuzz/run does it)")
  endif()
  add_compile_options(-fsanitize=fuzzer-no-link,address,undefined -fno-sanitize-recover=undefined
    -fno-omit-frame-pointer)
  add_link_options(-fsanitize=address,undefined)
endif()

# penstock_options(TARGET): warnings as errors, include root, fault points.
function(penstock_options target)
  target_compile_options(${target} PRIVATE
    -Wall -Wextra -Werror -Wno-missing-field-initializers -Wno-unused-parameter
    $<$<COMPILE_LANGUAGE:CXX>:-Wnon-virtual-dtor -Woverloaded-virtual>)
  if(PENSTOCK_SANITIZE STREQUAL "thread")
    # GCC warns that it cannot instrument atomic_thread_fence; the code does not rely on fences alone.
    target_compile_options(${target} PRIVATE $<$<CXX_COMPILER_ID:GNU>:-Wno-tsan>)
  endif()
  target_include_directories(${target} PUBLIC $<BUILD_INTERFACE:${PROJECT_SOURCE_DIR}>)
  if(PENSTOCK_FAULT_POINTS)
    target_compile_definitions(${target} PUBLIC PENSTOCK_FAULT_POINTS=1)
  endif()
endfunction()

# penstock_library(NAME [SHARED|STATIC] SOURCES... DEPS...): a library of ours.
function(penstock_library name)
  cmake_parse_arguments(arg "SHARED" "" "SOURCES;DEPS" ${ARGN})
  if(arg_SHARED)
    add_library(${name} SHARED ${arg_SOURCES})
  else()
    add_library(${name} STATIC ${arg_SOURCES})
  endif()
  penstock_options(${name})
  target_link_libraries(${name} PUBLIC ${arg_DEPS})
endfunction()
