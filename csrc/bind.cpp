// What is not tensor in, tensor out: the cell table, the instruction set switch, what was built and what ran last.
// Importing this module registers the ops.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include "cpu/isa.h"
#include "ops.h"

namespace py = pybind11;

namespace {

py::list names(const std::vector<rnn::Isa>& isas) {
  py::list list;
  for (rnn::Isa isa : isas) list.append(rnn::isa_name(isa));
  return list;
}

py::list cells() {
  py::list list;
  for (int i = 0; i < rnn::cell_count(); ++i) {
    const rnn::Facts& f = rnn::cell_facts(i);
    py::dict d;
    d["name"] = f.name;
    d["gates"] = f.gates;
    d["states"] = f.states;
    d["saved_rows"] = rnn::Kept(f, false, false).rows;
    d["scales"] = rnn::Kept(f, false, false).scales;
    d["stages"] = f.stages;
    d["projection"] = f.projection;
    d["parameters"] = f.parameters;
    d["fed"] = f.fed;
    d["cell_state"] = f.cell;
    d["first_input"] = f.first_input;
    d["first_bias_ih"] = f.first_bias_ih;
    d["first_bias_hh"] = f.first_bias_hh;
    d["shared"] = f.shared;
    list.append(d);
  }
  return list;
}

py::dict last_kernel() {
  py::dict d;
  rnn::LastKernel last = rnn::last_kernel();
  if (last.threads == 0) return d;
  d["op"] = last.op;
  d["isa"] = last.isa;
  d["dtype"] = last.dtype;
  d["threads"] = last.threads;
  d["split"] = last.split;
  return d;
}

py::dict build_info() {
  py::dict d;
  d["version"] = RNN_VERSION;
  d["compiler"] = RNN_COMPILER;
  d["flags"] = RNN_FLAGS;
  d["torch"] = RNN_TORCH_VERSION;
#if defined(RNN_CUDA_ON_CPU)
  d["cuda"] = "executed on the CPU";
#elif defined(RNN_CUDA)
  d["cuda"] = RNN_CUDA;
#else
  d["cuda"] = false;
#endif
  return d;
}

}  // namespace

PYBIND11_MODULE(_C, m) {
  m.doc() = "rnnkernels' compiled part: importing it registers the torch ops.";
  m.def("cells", &cells,
        "What the ops' schemas are made from, one dict per cell; saved_rows without a projection's one.");
  m.def(
      "isas",
      [] {
        py::dict d;
        d["built"] = names(rnn::built_isas());
        d["available"] = names(rnn::available_isas());
        return d;
      },
      "Instruction sets, the best last.");
  m.def("get_isa", [] { return rnn::isa_name(rnn::current_isa()); });
  m.def("set_isa", [](std::optional<std::string> name) { rnn::set_isa(name.value_or("")); }, py::arg("name"));
  m.def("last_kernel", &last_kernel);
  m.def("recompute_piece", &rnn::recompute_piece, py::arg("ticks"), py::arg("batch"), py::arg("numbers"));
  m.def(
      "ntm_record",
      [](int64_t inputs, int64_t hidden, int64_t rows, int64_t width, const std::vector<int64_t>& choices) {
        rnn::NtmRecord r = rnn::ntm_record(inputs, hidden, rows, width, choices);
        py::dict d;
        d["numbers"] = r.numbers;
        d["features"] = r.features;
        d["values"] = r.values;
        d["weightings"] = r.weightings;
        d["padded_rows"] = r.padded_rows;
        d["ticks"] = r.ticks;
        d["chunks"] = r.chunks;
        return d;
      },
      "What `rnnkernels::ntm` saves of a frame: how many numbers, and where parts of them begin.");
  m.def("controllers", [] {
    py::list list;
    for (int i = 0; i < rnn::controller_count(); ++i) list.append(rnn::controller_facts(i).name);
    return list;
  });
  m.def("persistent_cells", &rnn::persistent_cells);
  m.def("build_info", &build_info);
}
