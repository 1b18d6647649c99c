// A case launches a kernel or two. It returns what is wrong with the result, empty if nothing is.
#pragma once
#include <functional>
#include <map>
#include <stdexcept>
#include <string>
#include <vector>

using Cases = std::map<std::string, std::function<std::string()>>;
Cases right_cases();
Cases wrong_cases();

template <class T> std::string differs(const std::vector<T>& is, const std::vector<T>& should_be,
                                       double tolerance = 0) {
  for (size_t i = 0; i < should_be.size(); i++) {
    double a = is[i], b = should_be[i];
    if (!((a > b ? a - b : b - a) <= tolerance))
      return "element " + std::to_string(i) + " is " + std::to_string(a) + ", should be " + std::to_string(b);
  }
  return "";
}
