// Small words, and scratch memory. Included once per machine, inside its namespace.

// Not std's: a template shared with other instruction sets' files might be linked from the wrong one.
template <class T> RNN_FN T min_of(T a, T b) { return b < a ? b : a; }
template <class T> RNN_FN T max_of(T a, T b) { return a < b ? b : a; }
RNN_FN int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

template <int... i> struct Indices {};
template <int n> using MakeIndices = Indices<__integer_pack(n)...>;

// Deals a block of memory out in pieces; from null it only measures.
struct Arena {
  char* base;
  size_t used = 0;

  template <class T> RNN_FN T* take(int64_t n) {
    size_t at = used;
    used += (static_cast<size_t>(n) * sizeof(T) + 63) / 64 * 64;
    return base ? reinterpret_cast<T*>(base + at) : nullptr;
  }
  template <class T> RNN_FN T* take_if(bool wanted, int64_t n) { return wanted ? take<T>(n) : nullptr; }
};
