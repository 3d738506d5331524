package topology

import (
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"
)

// didYouMean returns `; did you mean "x"?` for the candidate nearest to word,
// or the empty string when none is near.
func didYouMean(word string, candidates []string) string {
	if c := Nearest(word, candidates); c != "" {
		return fmt.Sprintf("; did you mean %q?", c)
	}
	return ""
}

// Nearest returns the candidate that somebody who wrote word most likely
// meant: the one that is fewest edits away, at most a third of the word's
// length, or else the first that begins with it. Case costs nothing. It is
// empty when none is near.
func Nearest(word string, candidates []string) string {
	const longest = 64
	if word == "" || len(word) > longest {
		return ""
	}
	word = strings.ToLower(word)
	best, found := max(1, len(word)/3)+1, ""
	for _, c := range candidates {
		if len(c) > longest {
			continue
		}
		if d := distance(word, strings.ToLower(c)); d < best && d < len(c) {
			best, found = d, c
		}
	}
	for _, c := range candidates {
		if found == "" && len(word) > 2 && strings.HasPrefix(strings.ToLower(c), word) {
			found = c
		}
	}
	return found
}

// distance is the number of insertions, deletions, substitutions and swaps of
// neighbours that turn a into b (optimal string alignment).
func distance(a, b string) int {
	before, prev, row := make([]int, len(b)+1), make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range prev {
		prev[j] = j
	}
	for i := 1; i <= len(a); i++ {
		row[0] = i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			row[j] = min(prev[j]+1, row[j-1]+1, prev[j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				row[j] = min(row[j], before[j-2]+1)
			}
		}
		before, prev, row = prev, row, before
	}
	return prev[len(b)]
}

// show quotes what a person wrote, cut short.
func show(s string) string {
	const most = 60
	if utf8.RuneCountInString(s) > most {
		return strconv.Quote(string([]rune(s)[:most])) + "…"
	}
	return strconv.Quote(s)
}

// oneOf lists alternatives as prose: a, b or c.
func oneOf(words []string) string {
	switch n := len(words); n {
	case 0:
		return ""
	case 1:
		return words[0]
	default:
		return strings.Join(words[:n-1], ", ") + " or " + words[n-1]
	}
}

// plural counts things: 1 pod, 2 pods.
func plural(n int, thing string) string {
	if n == 1 {
		return "1 " + thing
	}
	return fmt.Sprintf("%d %ss", n, thing)
}
