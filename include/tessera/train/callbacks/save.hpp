// Checkpoints while a run goes on. Needs nlohmann-json (tessera::io).
#pragma once

#include <filesystem>
#include <utility>

#include "tessera/train/callbacks/report.hpp"
#include "tessera/train/checkpoint.hpp"
#include "tessera/train/product_choices.hpp"
#include "tessera/train/run.hpp"

namespace tessera {
inline namespace TESSERA_ABI {

// A callback that writes recipe.checkpoint(), and the choices of products beside it, every recipe.save_every steps and
// when a run is stopped.
class SaveCheckpoints {
 public:
  // metadata: what must be the same for a run that continues from the checkpoint. The report must outlive the callback.
  SaveCheckpoints(Report& report, Metadata metadata) : report_(report), metadata_(std::move(metadata)) {}

  // Rows of metrics and choices reach the disk before the checkpoint that counts on them.
  template <class Run>
  void save(Run& run) {
    run.between_steps([&] {
      report_.flush_to_disk();
      const std::filesystem::path path = run.recipe().checkpoint();
      if constexpr (chooses_products<typename Run::Trainer::Backend>)
        detail::on_first_rank(run.trainer(), path,
                              [&] { save_choices(choices_beside(path), run.trainer().backend()); });
      save_checkpoint(path, run.trainer(), metadata_);
    });
  }
  template <class Run>
  void after(Run& run, const StepReport&) {
    if (run.due(run.recipe().save_every)) save(run);
  }
  template <class Run>
  void end(Run& run, bool finished) {
    if (finished) return;
    save(run);
    report_.say(fmt::format("stopped by a signal after step {}; the same command with --resume {} continues",
                            run.steps(), run.recipe().checkpoint().string()));
  }

 private:
  Report& report_;
  Metadata metadata_;
};

}  // namespace TESSERA_ABI
}  // namespace tessera
