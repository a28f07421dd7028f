// What every report must be: one whole page that asks for nothing else.
#ifndef MLA_TESTS_APPS_HTML_CHECK_H_
#define MLA_TESTS_APPS_HTML_CHECK_H_

#include <gtest/gtest.h>

#include <string>
#include <vector>

namespace mla::test {

// Every tag is closed, in the order of a well-formed document; `<meta>` and `<tag/>` need no end.
inline void ExpectTagsNest(const std::string& html) {
  std::vector<std::string> open;
  for (size_t at = html.find('<'); at != std::string::npos; at = html.find('<', at + 1)) {
    const size_t end = html.find('>', at);
    ASSERT_NE(end, std::string::npos) << "an open tag at " << at;
    const std::string tag = html.substr(at + 1, end - at - 1);
    ASSERT_EQ(tag.find('<'), std::string::npos) << tag;
    const std::string name = tag.substr(0, tag.find_first_of(" /", 1));
    if (tag.starts_with('!') || name == "meta" || tag.ends_with('/')) continue;
    if (tag.starts_with('/')) {
      ASSERT_FALSE(open.empty()) << tag;
      ASSERT_EQ(tag, "/" + open.back()) << "at " << at;
      open.pop_back();
    } else {
      open.push_back(name);
    }
  }
  EXPECT_TRUE(open.empty()) << open.back() << " is not closed";
}

inline void ExpectSelfContainedPage(const std::string& html) {
  EXPECT_TRUE(html.starts_with("<!DOCTYPE html>"));
  EXPECT_TRUE(html.ends_with("</html>\n"));
  ExpectTagsNest(html);
  for (const char* part : {"<script", " src=", " href=", "<link", "<iframe", "url(", "@import"}) {
    EXPECT_EQ(html.find(part), std::string::npos) << part;
  }
  // Light and dark, and a phone's width.
  EXPECT_NE(html.find("prefers-color-scheme:dark"), std::string::npos);
  EXPECT_NE(html.find("width=device-width"), std::string::npos);
}

}  // namespace mla::test

#endif  // MLA_TESTS_APPS_HTML_CHECK_H_
