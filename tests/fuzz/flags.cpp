#include <optional>

#include "input.hpp"
#include "tessera/programs/pretrain.hpp"

// The flags of pretrain, one on each line, up to the data.
extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace tessera;
  std::vector<std::string> words{"pretrain"};
  for (std::size_t i = 0; i < size; ++i)
    if (const char letter = static_cast<char>(data[i]); letter == '\n')
      words.emplace_back();
    else if (letter != '\0')
      words.back() += letter;
  std::vector<char*> arguments;
  for (std::string& word : words) arguments.push_back(word.data());
  const int count = static_cast<int>(arguments.size());

  programs::Entry entry;
  entry.objective = "moco_v3";
  entry.arch = "vit_tiny";
  const programs::detail::Choice choice({entry});
  fuzz::accept_refusals([&] {
    programs::detail::ChosenFlags chosen;
    chosen.objective = choice.default_objective();
    chosen.read(count, arguments.data(), choice);
  });
  fuzz::accept_refusals([&] {
    programs::Options options;
    std::vector<programs::SettingFlag> settings{{"moco-t", "temperature", {1e-3, 1e3}, constant(0.2)},
                                                {"moco-m", "momentum", {0, 1}, cosine(0.99, 1)}};
    CLI::App app;
    app.set_help_flag();
    programs::set_up(app);
    programs::detail::add_recipe_flags(app, options);
    programs::detail::add_setting_flags(app, settings);
    if (!programs::parse(app, count, arguments.data())) return;
    options.recipe.check("--");
    static_cast<void>(options.recipe.make_optimizer());
    static_cast<void>(options.recipe.learning_rate(options.recipe.epochs / 2));
    static_cast<void>(options.recipe.identity(1000));
    fuzz::accept_refusals([&] { static_cast<void>(options.recipe.iterations_per_epoch(1000, "--")); });
  });
  return 0;
}
