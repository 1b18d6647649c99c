// Huge pages for large memory.
#pragma once
#include <cstddef>

namespace rnn {

// Asks the system for huge pages, where it has them, under memory that nobody has touched yet: to touch every small one
// for the first time costs as much as the arithmetic of a narrow layer.
void prefer_huge_pages(void* memory, size_t bytes);

}  // namespace rnn
