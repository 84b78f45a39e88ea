// Numbers of an objective that may be turned, each with a schedule.
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

// A number over a run: constant, or from `start` to `end` along half a cosine.
struct Schedule {
  double start = 0, end = 0;
  bool cosine = false;

  constexpr Schedule() = default;
  constexpr Schedule(double value) : start(value), end(value) {}
  constexpr Schedule(double from, double to, bool moves) : start(from), end(to), cosine(moves) {}

  // After `epoch` of `epochs` epochs.
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
// Constant unless a run turns the cosine on.
[[nodiscard]] constexpr Schedule constant_or_cosine(double start, double end) {
  return {start, end, false};
}

// The numbers that a schedule may take.
struct Range {
  double low, high;
};

namespace objectives {

// The settings of an objective without any.
struct NoSettings {
  template <class Visit>
  constexpr void visit(Visit&&) {}
};

// An objective's Settings list themselves: visit(v) calls v(name, schedule, range, help) for each member in order; a
// name is that of the flag, without dashes in front.
template <class Settings>
[[nodiscard]] constexpr std::size_t settings_count() {
  std::size_t count = 0;
  Settings settings{};
  settings.visit([&](std::string_view, Schedule&, Range, std::string_view) { ++count; });
  return count;
}

template <class Settings>
using SettingsValues = std::array<double, settings_count<Settings>()>;

// The values after `epoch` of `epochs` epochs, in the order of the list.
template <class Settings>
[[nodiscard]] SettingsValues<Settings> values_at(Settings settings, double epoch, double epochs) {
  SettingsValues<Settings> values{};
  std::size_t next = 0;
  settings.visit([&](std::string_view, const Schedule& schedule, Range, std::string_view) {
    values[next++] = schedule.at(epoch, epochs);
  });
  return values;
}

// The place of a member in the list.
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

// "moco-m" as a key of metadata and metrics: "moco_m".
[[nodiscard]] inline std::string key_of(std::string_view name) {
  std::string key(name);
  for (char& letter : key)
    if (letter == '-') letter = '_';
  return key;
}

// Throws Error that names a setting outside its range, with `prefix` in front: "--" for a program's flags.
template <class Settings>
void check_settings(Settings settings, std::string_view prefix = "") {
  settings.visit([&](std::string_view name, const Schedule& schedule, Range range, std::string_view) {
    for (const double value : {schedule.start, schedule.end})
      if (!(value >= range.low && value <= range.high))
        fail("{}{} must lie between {} and {}, not {}", prefix, name, range.low, range.high, value);
  });
}

// The settings as a checkpoint keeps them: a value under each name, and whether it follows a cosine where it may.
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
