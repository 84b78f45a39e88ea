// The state that callers of a store and its thread share: posted blobs, received blobs, failures.
#pragma once

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "tessera/comm/communicator.hpp"
#include "tessera/comm/rendezvous/wire.hpp"

namespace tessera {
inline namespace TESSERA_ABI {
namespace comm::detail {

// The blobs of one exchange that have arrived.
struct Round {
  explicit Round(int ranks = 0) : blobs(static_cast<std::size_t>(ranks)), here(blobs.size()) {}

  // False if the rank's blob is here already, or if there is no such rank.
  bool put(std::uint32_t rank, std::span<const std::byte> blob) {
    if (rank >= blobs.size() || here[rank]) return false;
    here[rank] = true;
    ++count;
    blobs[rank].assign(blob.begin(), blob.end());
    return true;
  }
  [[nodiscard]] bool complete() const noexcept { return count == blobs.size() && count > 0; }

  std::vector<Blob> blobs;
  std::vector<bool> here;
  std::size_t count = 0;
};

// A rank's blob for an exchange, and the exchange's number.
struct Post {
  std::uint32_t number;
  Blob blob;
};

class Mailbox {
 public:
  Mailbox(int rank, int ranks, std::chrono::milliseconds deadline) : rank_(rank), ranks_(ranks), deadline_(deadline) {}

  // ---- for callers

  [[nodiscard]] std::vector<Blob> exchange(std::span<const std::byte> mine) {
    std::unique_lock lock(mutex_);
    check();
    if (ranks_ == 1) return {Blob(mine.begin(), mine.end())};
    round_ = Round(ranks_);
    posted_ = Post{++rounds_, Blob(mine.begin(), mine.end())};
    wake_up_.ring();
    // Rank 0 knows which ranks are missing and sends their names at the deadline; its message has one second to arrive.
    const auto over = [&] { return round_.complete() || !failure_.empty(); };
    if (!changed_.wait_for(lock, deadline_ + std::chrono::seconds(1), over))
      fail_with(fmt::format("rank {} waited {:.1f} s for rank 0 in exchange {}", rank_, seconds(deadline_), rounds_));
    if (!round_.complete()) check();
    return std::move(round_.blobs);
  }
  // Tells that this rank cannot go on.
  void give_up(std::string why) {
    const std::lock_guard lock(mutex_);
    if (failure_.empty()) fail_with(std::move(why));
  }
  // The store is being destroyed.
  void leave() {
    const std::lock_guard lock(mutex_);
    leaving_ = true;
    wake_up_.ring();
  }

  // ---- for the store's thread

  // The descriptor that becomes readable when there is something to post, or when it is time to leave.
  [[nodiscard]] int wake_up() const noexcept { return wake_up_.descriptor(); }

  // False when it is time to leave.
  [[nodiscard]] bool take_orders(std::optional<Post>& posted) {
    wake_up_.silence();
    const std::lock_guard lock(mutex_);
    posted = std::exchange(posted_, std::nullopt);
    return !leaving_ && failure_.empty();
  }
  [[nodiscard]] bool must_leave() {
    wake_up_.silence();
    const std::lock_guard lock(mutex_);
    return leaving_ || !failure_.empty();
  }
  [[nodiscard]] bool destroyed() {
    wake_up_.silence();
    const std::lock_guard lock(mutex_);
    return leaving_;
  }

  // All blobs of the exchange that this rank is in.
  void complete(Round round) {
    const std::lock_guard lock(mutex_);
    round_ = std::move(round);
    changed_.notify_all();
  }
  // Takes one blob. False if it does not belong to the exchange.
  [[nodiscard]] bool put(std::uint32_t exchange, std::uint32_t rank, std::span<const std::byte> blob) {
    const std::lock_guard lock(mutex_);
    if (exchange != rounds_ || !round_.put(rank, blob)) return false;
    if (round_.complete()) changed_.notify_all();
    return true;
  }

  // Records a failure that the other ranks must hear of. False if this rank had given up before.
  [[nodiscard]] bool note(const std::string& failure, bool refused) {
    const std::lock_guard lock(mutex_);
    if (!failure_.empty()) return false;
    failure_ = last_words_ = failure;
    refused_ = refused;
    changed_.notify_all();
    return true;
  }
  // Records that rank 0 left regularly: calls fail, and no other rank has to hear of it.
  void note_goodbye() {
    const std::lock_guard lock(mutex_);
    if (failure_.empty()) failure_ = "rank 0 has said goodbye";
    changed_.notify_all();
  }
  // The status that the other ranks receive at the end; empty for a regular end.
  [[nodiscard]] std::string final_status() {
    const std::lock_guard lock(mutex_);
    return last_words_;
  }

 private:
  void check() const {
    if (failure_.empty()) return;
    if (refused_) throw Error(failure_);
    throw RankLost(failure_);
  }
  void fail_with(std::string why) {
    failure_ = last_words_ = std::move(why);
    changed_.notify_all();
    wake_up_.ring();
  }

  const int rank_, ranks_;
  const std::chrono::milliseconds deadline_;
  std::mutex mutex_;
  std::condition_variable changed_;  // the round is complete, or there is a failure
  WakeUp wake_up_;
  Round round_;
  std::optional<Post> posted_;
  std::uint32_t rounds_ = 0;  // that this rank began
  std::string failure_;       // what calls throw; empty: they do not
  std::string last_words_;
  bool refused_ = false, leaving_ = false;
};

}  // namespace comm::detail
}  // namespace TESSERA_ABI
}  // namespace tessera
