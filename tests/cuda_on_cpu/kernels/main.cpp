// Runs the cases named, or all that are right; prints what each says. Exits 1 if any says something.
#include <cstdio>

#include "cases.h"

int main(int count, char** names) {
  auto cases = right_cases();
  std::vector<std::string> wanted(names + 1, names + count);
  if (wanted.empty())
    for (auto& [name, run] : cases) wanted.push_back(name);
  cases.merge(wrong_cases());
  bool wrong = false;
  for (auto& name : wanted) {
    std::string said;
    try {
      said = cases.at(name)();
    } catch (const std::exception& e) {
      said = e.what();
    }
    printf("%s: %s\n", name.c_str(), said.empty() ? "right" : said.c_str());
    wrong |= !said.empty();
  }
  return wrong;
}
