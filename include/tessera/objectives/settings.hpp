// Settings of an objective, each a constant or a schedule.
#pragma once

#include <fmt/format.h>

#include <array>
#include <cmath>
#include <cstddef>
#include <map>
#include <numbers>
#include <string>
#include <string_view>

#include "tessera/core/abi.hpp"
#include "tessera/core/errors.hpp"

namespace tessera {
inline namespace TESSERA_ABI {

// The value of a setting over a run: `start` throughout, or from `start` to `end` along half a cosine (docs/method.md,
// 4.6).
struct Schedule {
  double start = 0, end = 0;
  bool cosine = false;

  constexpr Schedule() = default;
  constexpr Schedule(double value) : start(value), end(value) {}
  constexpr Schedule(double from, double to, bool moves) : start(from), end(to), cosine(moves) {}

  // The value at the fractional epoch `epoch` of `epochs`.
  [[nodiscard]] double at(double epoch, double epochs) const {
    if (!cosine) return start;
    return end - (end - start) * 0.5 * (1.0 + std::cos(std::numbers::pi * epoch / epochs));
  }
  bool operator==(const Schedule&) const = default;
};

[[nodiscard]] constexpr Schedule constant(double value) {
  return value;
}
[[nodiscard]] constexpr Schedule cosine(double start, double end) {
  return {start, end, true};
}
// `start` throughout, until the user sets `cosine`; then to `end` along half a cosine.
[[nodiscard]] constexpr Schedule constant_or_cosine(double start, double end) {
  return {start, end, false};
}

// The values that a setting may take: [low, high].
struct Range {
  double low, high;
};

namespace objectives {

// The settings of an objective without any.
struct NoSettings {
  template <class Visit>
  constexpr void visit(Visit&&) {}
};

// The number of settings. Settings::visit(v) calls v(name, schedule, range, help) for each member in order; programs
// offer each as the flag --name.
template <class Settings>
[[nodiscard]] constexpr std::size_t settings_count() {
  std::size_t count = 0;
  Settings settings{};
  settings.visit([&](std::string_view, Schedule&, Range, std::string_view) { ++count; });
  return count;
}

// The values of all settings in one step, in the order of visit.
template <class Settings>
using SettingsValues = std::array<double, settings_count<Settings>()>;

// The values at the fractional epoch `epoch` of `epochs`.
template <class Settings>
[[nodiscard]] SettingsValues<Settings> values_at(Settings settings, double epoch, double epochs) {
  SettingsValues<Settings> values{};
  std::size_t next = 0;
  settings.visit([&](std::string_view, const Schedule& schedule, Range, std::string_view) {
    values[next++] = schedule.at(epoch, epochs);
  });
  return values;
}

// The place of a member in the order of visit, from 0.
template <class Settings>
[[nodiscard]] std::size_t place_of(Schedule Settings::*member) {
  Settings settings{};
  std::size_t place = 0, next = 0;
  settings.visit([&](std::string_view, const Schedule& schedule, Range, std::string_view) {
    if (&schedule == &(settings.*member)) place = next;
    ++next;
  });
  return place;
}

// The key of a setting in metadata and metrics: "moco_m" for "moco-m".
[[nodiscard]] inline std::string key_of(std::string_view name) {
  std::string key(name);
  for (char& letter : key)
    if (letter == '-') letter = '_';
  return key;
}

// Throws Error if a setting is outside its range. The message puts `prefix` in front of the name: programs pass "--".
template <class Settings>
void check_settings(Settings settings, std::string_view prefix = "") {
  settings.visit([&](std::string_view name, const Schedule& schedule, Range range, std::string_view) {
    for (const double value : {schedule.start, schedule.end})
      if (!(value >= range.low && value <= range.high))
        fail("{}{} must lie between {} and {}, not {}", prefix, name, range.low, range.high, value);
  });
}

// The settings as a checkpoint stores them: key -> start, and for settings that can follow a cosine key_cos -> "0" or
// "1".
template <class Settings>
[[nodiscard]] std::map<std::string, std::string> identity_of(Settings settings) {
  std::map<std::string, std::string> identity;
  settings.visit([&](std::string_view name, const Schedule& schedule, Range, std::string_view) {
    identity[key_of(name)] = fmt::format("{}", schedule.start);
    if (schedule.end != schedule.start || schedule.cosine)
      identity[key_of(name) + "_cos"] = schedule.cosine ? "1" : "0";
  });
  return identity;
}

}  // namespace objectives
}  // namespace TESSERA_ABI
}  // namespace tessera
