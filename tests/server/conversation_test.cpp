// Stored conversations: what is reused, what is forgotten.
#include "server/conversation.hpp"

#include <gtest/gtest.h>

#include "server/protocol.hpp"
#include "text/chat_template.hpp"
#include "text/tokenizer.hpp"

namespace quire::server {
namespace {

const char* const chatml = "{% for m in messages %}[{{ m.role }}]{{ m.content }}[/]{% endfor %}{% if "
                           "add_generation_prompt %}[assistant]{% endif %}";

std::shared_ptr<Conversation> of_bytes(size_t n) {
  auto c = std::make_shared<Conversation>();
  c->text = std::string(n, 'x');
  return c;
}

TEST(ConversationStore, ForgetsTheLeastRecentlyUsedBeyondItsBytes) {
  ConversationStore store(10'000);
  store.put("a", of_bytes(2000));
  store.put("b", of_bytes(2000));
  EXPECT_TRUE(store.find("a")); // now b is the oldest
  store.put("c", of_bytes(2000));
  EXPECT_TRUE(store.find("a"));
  EXPECT_FALSE(store.find("b"));
  EXPECT_TRUE(store.find("c"));
  store.put("huge", of_bytes(100'000));
  EXPECT_FALSE(store.find("huge"));
  EXPECT_TRUE(store.find("c"));
}

TEST(Conversation, ContinuingKeepsTheTokenIdsOfThePast) {
  const auto tokenizer = Tokenizer::from_bytes(300);
  const ChatTemplate chat = ChatTemplate::parse(chatml, "test");
  const json::array first{{{"role", "user"}, {"content", "hi"}}};
  const Prompt one = make_prompt(nullptr, std::nullopt, first, *tokenizer, &chat);
  EXPECT_EQ(one.text, "[user]hi[/][assistant]");

  Conversation past;
  past.messages = one.messages;
  past.messages.push_back({{"role", "assistant"}, {"content", "yo"}});
  past.text = one.text + "yo";
  past.tokens = one.tokens;
  past.tokens.insert(past.tokens.end(), {299, 298}); // not what the encoder would have made of it
  const json::array next{{{"role", "user"}, {"content", "and?"}}};
  const Prompt two = make_prompt(&past, std::nullopt, next, *tokenizer, &chat);
  EXPECT_EQ(two.text, "[user]hi[/][assistant]yo[/][user]and?[/][assistant]");
  ASSERT_GT(two.tokens.size(), past.tokens.size());
  EXPECT_TRUE(std::equal(past.tokens.begin(), past.tokens.end(), two.tokens.begin()));
  EXPECT_EQ(two.messages.size(), 3u);
}

TEST(Conversation, WhereTheTemplateRewritesHistoryAllIsEncodedAnew) {
  const auto tokenizer = Tokenizer::from_bytes(300);
  const ChatTemplate chat = ChatTemplate::parse(chatml, "test");
  Conversation past;
  past.messages = {{{"role", "user"}, {"content", "hi"}}, {{"role", "assistant"}, {"content", "yo"}}};
  past.text = "something else";
  past.tokens = {1, 2, 3};
  const Prompt p = make_prompt(&past, std::nullopt, {{{"role", "user"}, {"content", "x"}}}, *tokenizer, &chat);
  EXPECT_EQ(tokenizer->decode(p.tokens), p.text);
}

TEST(Conversation, InstructionsAreNotCarriedOver) {
  const auto tokenizer = Tokenizer::from_bytes(300);
  const ChatTemplate chat = ChatTemplate::parse(chatml, "test");
  const Prompt p = make_prompt(nullptr, "Be brief.", {{{"role", "user"}, {"content", "hi"}}}, *tokenizer, &chat);
  EXPECT_EQ(p.text, "[system]Be brief.[/][user]hi[/][assistant]");
  EXPECT_EQ(p.messages.size(), 1u);
}

TEST(Conversation, ATemplatesRefusalIsTheClientsError) {
  const auto tokenizer = Tokenizer::from_bytes(300);
  const ChatTemplate chat = ChatTemplate::parse("{{ raise_exception('Roles must alternate') }}", "test");
  EXPECT_THROW(make_prompt(nullptr, std::nullopt, {{{"role", "user"}, {"content", "hi"}}}, *tokenizer, &chat),
               ProtocolError);
}

} // namespace
} // namespace quire::server
