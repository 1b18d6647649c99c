// Stands for torch's header of this name: there is one device.
#pragma once

namespace c10 {

struct Device {
  bool has_index() const { return false; }
  int index() const { return 0; }
};

}  // namespace c10
