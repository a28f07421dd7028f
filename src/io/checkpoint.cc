#include "io/checkpoint.h"

#include <sys/stat.h>

#include <cerrno>
#include <map>
#include <nlohmann/json.hpp>
#include <utility>

#include "io/json.h"
#include "io/read_file.h"

namespace mla {
namespace {

using nlohmann::json;

constexpr char kSingleFile[] = "model.safetensors";
constexpr char kIndexFile[] = "model.safetensors.index.json";

bool Exists(const std::string& path) {
  struct stat info {};
  return ::stat(path.c_str(), &info) == 0;
}

// A name that cannot lead out of the directory it is looked up in.
bool IsPlainFileName(std::string_view name) {
  return !name.empty() && name != "." && name != ".." &&
         name.find_first_of(std::string_view("/\\\0", 3)) == name.npos;
}

// Shard -> the tensors in it, as the index says.
using ShardMap = std::map<std::string, std::vector<std::string>>;

Result<ShardMap> ReadIndex(const std::string& path) {
  MLA_ASSIGN_OR_RETURN(const json index, ReadJsonFile(path));
  const auto weight_map = index.is_object() ? index.find("weight_map") : index.end();
  if (weight_map == index.end() || !weight_map->is_object() || weight_map->empty()) {
    return CorruptFile(path, ": weight_map is ",
                       weight_map == index.end() ? "missing" : DescribeJson(*weight_map),
                       ", want an object from tensor names to files");
  }
  ShardMap shards;
  for (const auto& [tensor, shard] : weight_map->items()) {
    if (!shard.is_string() || !IsPlainFileName(shard.get_ref<const std::string&>())) {
      return CorruptFile(path, ": tensor ", Quote(tensor), " is in ", DescribeJson(shard),
                         ", want the name of a file in the same directory");
    }
    shards[shard.get_ref<const std::string&>()].push_back(tensor);
  }
  return shards;
}

Status CheckShardsExist(const std::string& dir, const ShardMap& shards) {
  std::string missing;
  size_t num_missing = 0;
  for (const auto& [shard, tensors] : shards) {
    if (Exists(JoinPath(dir, shard))) continue;
    missing += Concat(num_missing++ > 0 ? ", " : "", Quote(shard));
  }
  if (num_missing == 0) return {};
  return NotFound(num_missing, " of ", shards.size(), " shards are missing in ", dir, ": ",
                  missing);
}

}  // namespace

Result<Checkpoint> Checkpoint::Open(const std::string& path) {
  struct stat info {};
  if (::stat(path.c_str(), &info) != 0) return FileError(path, errno);
  Checkpoint checkpoint;
  if (!S_ISDIR(info.st_mode)) {
    MLA_RETURN_IF_ERROR(checkpoint.AddFile(path));
    return checkpoint;
  }
  const std::string single_path = JoinPath(path, kSingleFile);
  if (Exists(single_path)) {
    MLA_RETURN_IF_ERROR(checkpoint.AddFile(single_path));
    return checkpoint;
  }
  const std::string index_path = JoinPath(path, kIndexFile);
  if (!Exists(index_path)) return NotFound("no ", kSingleFile, " or ", kIndexFile, " in ", path);
  MLA_ASSIGN_OR_RETURN(const ShardMap shards, ReadIndex(index_path));
  MLA_RETURN_IF_ERROR(CheckShardsExist(path, shards));
  for (const auto& [shard, names] : shards) {
    MLA_RETURN_IF_ERROR(checkpoint.AddFile(JoinPath(path, shard)));
    for (const std::string& name : names) {
      if (checkpoint.files_.back().Find(name) != nullptr) continue;
      return CorruptFile(index_path, ": tensor ", Quote(name), " should be in ", Quote(shard),
                         ", but is not");
    }
  }
  return checkpoint;
}

Status Checkpoint::AddFile(const std::string& path) {
  MLA_ASSIGN_OR_RETURN(SafetensorsFile file, SafetensorsFile::Open(path));
  for (const StoredTensor& tensor : file.tensors()) {
    const auto [place, inserted] = by_name_.emplace(tensor.name, Place{&tensor, files_.size()});
    if (!inserted) {
      return CorruptFile("tensor ", Quote(tensor.name),
                         " is in two shards: ", files_[place->second.file].path(), " and ", path);
    }
    tensors_.push_back(&tensor);
  }
  data_bytes_ += file.data_bytes();
  // Moving a file leaves its tensors where they are.
  files_.push_back(std::move(file));
  return {};
}

Result<Checkpoint> Checkpoint::FromGguf(GgufFile file, std::vector<StoredTensor> tensors,
                                        std::vector<std::unique_ptr<std::byte[]>> converted) {
  Checkpoint checkpoint;
  if (const auto twice = checkpoint.AddTensors(std::move(tensors))) {
    return CorruptFile(file.path(), ": two tensors are ", Quote(*twice));
  }
  checkpoint.gguf_ = std::move(file);
  checkpoint.converted_ = std::move(converted);
  return checkpoint;
}

Result<Checkpoint> Checkpoint::FromMemory(std::vector<StoredTensor> tensors,
                                          std::shared_ptr<const void> memory) {
  Checkpoint checkpoint;
  if (const auto twice = checkpoint.AddTensors(std::move(tensors))) {
    return InvalidArgument("two tensors are ", Quote(*twice));
  }
  checkpoint.memory_ = std::move(memory);
  return checkpoint;
}

std::optional<std::string> Checkpoint::AddTensors(std::vector<StoredTensor> tensors) {
  own_tensors_ = std::move(tensors);
  for (const StoredTensor& tensor : own_tensors_) {
    if (!by_name_.emplace(tensor.name, Place{&tensor, 0}).second) return tensor.name;
    tensors_.push_back(&tensor);
    data_bytes_ += std::ssize(tensor.data);
  }
  return std::nullopt;
}

const StoredTensor* Checkpoint::Find(std::string_view name) const {
  const auto found = by_name_.find(name);
  return found == by_name_.end() ? nullptr : found->second.tensor;
}

void Checkpoint::Prefetch() const {
  for (const SafetensorsFile& file : files_) file.Prefetch();
  if (gguf_) gguf_->Prefetch();
}

std::vector<std::string> CheckpointFiles(const std::string& path) {
  struct stat info {};
  if (::stat(path.c_str(), &info) == 0 && !S_ISDIR(info.st_mode)) return {path};
  const std::string single_path = JoinPath(path, kSingleFile);
  if (Exists(single_path)) return {single_path};
  std::vector<std::string> files = {JoinPath(path, kIndexFile)};
  const Result<ShardMap> shards = ReadIndex(files[0]);
  if (!shards.ok()) return files;
  for (const auto& [shard, tensors] : *shards) files.push_back(JoinPath(path, shard));
  return files;
}

}  // namespace mla
