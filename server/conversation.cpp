#include "conversation.hpp"

#include "protocol.hpp"
#include "text/chat_template.hpp"
#include "text/tokenizer.hpp"

namespace quire::server {

size_t Conversation::bytes() const {
  size_t total =
      sizeof *this + 2 * text.size() + tokens.size() * sizeof(int32_t); // the messages hold the text once more
  return total + messages.size() * 128;
}

void ConversationStore::put(const std::string& id, std::shared_ptr<const Conversation> conversation) {
  const size_t bytes = conversation->bytes() + id.size();
  if (bytes > max_bytes_) return;
  std::list<Entry> dropped; // destroyed after the lock is gone
  const std::lock_guard lock(mutex_);
  entries_.push_front({id, std::move(conversation), bytes});
  by_id_[id] = entries_.begin();
  bytes_ += bytes;
  while (bytes_ > max_bytes_) {
    bytes_ -= entries_.back().bytes;
    by_id_.erase(entries_.back().id);
    dropped.splice(dropped.end(), entries_, std::prev(entries_.end()));
  }
}

std::shared_ptr<const Conversation> ConversationStore::find(const std::string& id) {
  const std::lock_guard lock(mutex_);
  const auto it = by_id_.find(id);
  if (it == by_id_.end()) return nullptr;
  entries_.splice(entries_.begin(), entries_, it->second);
  return it->second->conversation;
}

namespace {

std::string render(const boost::json::array& messages, const Tokenizer& tokenizer, const ChatTemplate* chat_template) {
  if (!chat_template) {
    std::string text;
    for (const auto& message : messages) {
      if (!text.empty()) text += '\n';
      text += std::string_view(message.at("content").as_string());
    }
    return tokenizer.shield_special(text);
  }
  ChatInput input;
  input.messages = shield_special(boost::json::value(messages), tokenizer);
  if (const auto bos = tokenizer.bos()) input.bos_token = tokenizer.token_text(*bos);
  if (const auto eos = tokenizer.eos()) input.eos_token = tokenizer.token_text(*eos);
  try {
    return chat_template->render(input);
  } catch (const TemplateError& e) {
    throw ProtocolError(e.raised() ? std::string("The model's chat template refuses this conversation: ") + e.what()
                                   : e.what(),
                        "input", "invalid_prompt");
  }
}

} // namespace

Prompt make_prompt(const Conversation* past, const std::optional<std::string>& instructions,
                   const boost::json::array& messages, const Tokenizer& tokenizer, const ChatTemplate* chat_template) {
  Prompt prompt;
  if (past) prompt.messages = past->messages;
  if (instructions && !instructions->empty()) // they replace those of an earlier response, as in OpenAI's API
    prompt.messages.insert(prompt.messages.begin(),
                           boost::json::object{{"role", "system"}, {"content", *instructions}});
  prompt.messages.insert(prompt.messages.end(), messages.begin(), messages.end());
  prompt.text = render(prompt.messages, tokenizer, chat_template);
  if (instructions && !instructions->empty()) prompt.messages.erase(prompt.messages.begin());

  EncodeOptions options;
  options.parse_special = true;
  options.shielded = true;
  if (past && !past->text.empty() && prompt.text.starts_with(past->text)) {
    options.add_special = false;
    prompt.tokens = past->tokens;
    const auto suffix = tokenizer.encode(std::string_view(prompt.text).substr(past->text.size()), options);
    prompt.tokens.insert(prompt.tokens.end(), suffix.begin(), suffix.end());
    return prompt;
  }
  // A template that writes its own BOS must not get a second one.
  const bool has_bos = tokenizer.bos() && prompt.text.starts_with(tokenizer.token_text(*tokenizer.bos()));
  options.add_special = !has_bos;
  prompt.tokens = tokenizer.encode(prompt.text, options);
  return prompt;
}

} // namespace quire::server
