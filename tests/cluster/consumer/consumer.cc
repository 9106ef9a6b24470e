// Puts a tensor and reads it back where it lies: consumer ADDRESS. 0 = the bytes are equal.
#include <penstock/client.h>

#include <algorithm>
#include <array>
#include <iostream>

int main(int argc, char** argv) {
  if (argc != 2) return 2;
  auto client = penstock::Client::Connect({.address = argv[1]});
  if (!client.ok()) return std::cerr << client.status() << "\n", 1;
  const std::array<float, 6> weights = {1, 2, 3, 4, 5, 6};
  auto put = (*client)->Put("consumer/w", {.data = weights.data(), .dtype = penstock::DType::kF32,
                                           .shape = penstock::Shape({2, 3}), .strides = {}});
  if (!put.ok()) return std::cerr << put.status() << "\n", 1;
  auto view = (*client)->Get("consumer/w");
  if (!view.ok()) return std::cerr << view.status() << "\n", 1;
  auto floats = view->As<float>();
  if (!floats.ok()) return std::cerr << floats.status() << "\n", 1;
  return std::equal(floats->begin(), floats->end(), weights.begin(), weights.end()) ? 0 : 1;
}
