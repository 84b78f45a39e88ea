// Makes the calls of training steps on comm::Mpi and compares what each rank sends with the model's figures, and what
// comm::Recorded counts with the model's list. Started by mpirun. Messages are counted where MPI is called.
#include <fmt/format.h>
#include <mpi.h>

#include <cstdint>
#include <cstdio>
#include <exception>
#include <vector>

#include "../../bench/scale_model.hpp"
#include "tessera/comm/mpi.hpp"
#include "tessera/comm/recorded.hpp"
#include "tessera/models/vit/vit.hpp"
#include "tessera/objectives/moco_v3.hpp"

namespace {

bench::Traffic counted;  // since it was cleared

}  // namespace

extern "C" int MPI_Isend(const void* values, int count, MPI_Datatype type, int to, int tag, MPI_Comm communicator,
                         MPI_Request* request) {
  int size = 0;
  PMPI_Type_size(type, &size);
  ++counted.messages;
  counted.bytes += std::int64_t{count} * size;
  return PMPI_Isend(values, count, type, to, tag, communicator, request);
}

namespace {

using namespace bench;

template <class Communicator, class Value>
void make(Communicator& communicator, const Collective& call, std::vector<Value>& values) {
  comm::Host host;
  const auto displacements = cuts_of(call, communicator.size());
  switch (call.operation) {
    case comm::Operation::all_reduce:
      return communicator.all_reduce(host, values.data(), call.count);
    case comm::Operation::reduce_scatter:
      return communicator.reduce_scatter(host, values.data(), comm::Displacements(displacements));
    case comm::Operation::all_gather:
      return communicator.all_gather(host, values.data(), comm::Displacements(displacements));
    case comm::Operation::broadcast:
      break;
  }
  ts::fail("{} is not part of a step", comm::name(call.operation));
}

void check(comm::Recorded<comm::Mpi>& communicator, const Model& model, bool zero) {
  Plan plan;
  plan.ranks = communicator.size();
  plan.images = 16 * plan.ranks;
  plan.bucket_bytes = 100000;
  plan.activations = comm::Type::float32;
  plan.zero = zero;
  const auto calls = collectives(model, plan);
  std::vector<float> floats(static_cast<std::size_t>(model.parameters));
  std::vector<double> doubles(static_cast<std::size_t>(model.parameters));
  const auto total = [&](comm::Operation operation) { return communicator.record().total(operation); };
  const comm::Operation operations[] = {comm::Operation::all_reduce, comm::Operation::reduce_scatter,
                                        comm::Operation::all_gather};
  std::vector<comm::Record::Total> before;
  for (const auto operation : operations) before.push_back(total(operation));

  for (std::size_t i = 0; i < calls.size(); ++i) {
    counted = {};
    if (calls[i].type == comm::Type::float64)
      make(communicator, calls[i], doubles);
    else
      make(communicator, calls[i], floats);
    const Traffic expected = sent(calls[i], communicator.size(), communicator.rank());
    if (counted.messages != expected.messages || counted.bytes != expected.bytes)
      ts::fail("rank {} of {}: {} of {} {} sends {} messages with {} bytes, the model says {} with {}",
               communicator.rank(), communicator.size(), comm::name(calls[i].operation), calls[i].count,
               comm::name(calls[i].type), counted.messages, counted.bytes, expected.messages, expected.bytes);
  }
  for (std::size_t i = 0; i < before.size(); ++i) {
    const Handed expected = handed_in(calls, operations[i]);
    const auto after = total(operations[i]);
    if (after.calls - before[i].calls != expected.calls || after.bytes - before[i].bytes != expected.bytes)
      ts::fail("{}: {} calls of {} bytes were recorded, the model says {} of {}", comm::name(operations[i]),
               after.calls - before[i].calls, after.bytes - before[i].bytes, expected.calls, expected.bytes);
  }
}

}  // namespace

int main() {
  try {
    comm::Recorded communicator(comm::Mpi::world());
    const Model tiny =
        describe<ts::objectives::MoCoV3<ts::vit::Tiny<>, ts::heads::Mlp<3, 512, 128>, ts::heads::Mlp<2, 512, 128>>>(
            "tiny");
    for (const bool zero : {false, true}) check(communicator, tiny, zero);
  } catch (const std::exception& problem) {
    fmt::print(stderr, "mpi_traffic: {}\n", problem.what());
    return 1;
  }
}
