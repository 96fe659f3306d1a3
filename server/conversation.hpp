// Finished responses, kept so that `previous_response_id` continues or branches them: the token ids of the prompt and
// the answer are reused and only what is new is rendered and encoded, so that the engine's prefix cache finds all full
// blocks of the past.
//
// Conversation is immutable once stored; ConversationStore is bounded by bytes, forgets the least recently used, and is
// [any] thread.
#pragma once

#include <boost/json.hpp>

#include <cstdint>
#include <list>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <unordered_map>
#include <vector>

#include "quire/engine.hpp"

namespace quire {
class Tokenizer;
class ChatTemplate;
} // namespace quire

namespace quire::server {

struct Conversation {
  boost::json::array messages; // [{role, content}] up to and including the answer
  std::string text;            // the rendered prompt followed by the answer
  std::vector<int32_t> tokens; // of `text`, as the model saw and made them
  size_t bytes() const;
};

class ConversationStore {
 public:
  explicit ConversationStore(size_t max_bytes) : max_bytes_(max_bytes) {}
  void put(const std::string& id, std::shared_ptr<const Conversation> conversation);
  std::shared_ptr<const Conversation> find(const std::string& id);

 private:
  struct Entry {
    std::string id;
    std::shared_ptr<const Conversation> conversation;
    size_t bytes;
  };
  const size_t max_bytes_;
  std::mutex mutex_;
  size_t bytes_ = 0;
  std::list<Entry> entries_; // most recently used first
  std::unordered_map<std::string, std::list<Entry>::iterator> by_id_;
};

// A prompt ready for the engine.
struct Prompt {
  boost::json::array messages; // the whole conversation, without the answer to come
  std::string text;
  std::vector<int32_t> tokens;
};

// Renders past + messages by the template (null: the contents joined by newlines, for base models) and encodes them.
// Where the text begins with the past's own text, the past's token ids are kept. Throws ProtocolError where the
// template refuses the conversation.
Prompt make_prompt(const Conversation* past, const std::optional<std::string>& instructions,
                   const boost::json::array& messages, const Tokenizer& tokenizer, const ChatTemplate* chat_template);

} // namespace quire::server
