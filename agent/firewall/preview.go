package firewall

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"strings"

	nft "github.com/google/nftables"
)

// Preview returns the shell commands that do what the first Ensure would, each
// with its input as a here-document, and runs none of them. There are none
// where everything is in place.
func (f *Firewall) Preview(ctx context.Context) ([]string, error) {
	command, err := f.rules.preview(ctx, f.config)
	if err != nil {
		return nil, fmt.Errorf("compare the %s rules: %w", f.rules.name(), err)
	}
	removal, err := previewRemoval(ctx, f.other)
	return append(nonEmpty(command), removal...), err
}

// PreviewRemoveIPv6 returns the commands of RemoveIPv6 likewise.
func PreviewRemoveIPv6(ctx context.Context) ([]string, error) {
	return previewRemoval(ctx, carriers(ipv6)...)
}

// previewRemoval returns the commands that remove all rules. A program that is
// not there has none.
func previewRemoval(ctx context.Context, all ...carrier) ([]string, error) {
	var out []string
	for _, c := range all {
		command, err := c.preview(ctx, Config{})
		if err != nil && !errors.Is(err, exec.ErrNotFound) {
			return nil, fmt.Errorf("look for %s rules: %w", c.name(), err)
		}
		out = append(out, nonEmpty(command)...)
	}
	return out, nil
}

func nonEmpty(command string) []string {
	if command == "" {
		return nil
	}
	return []string{command}
}

// hereDocument is a shell command with its input.
func hereDocument(command, input string) string {
	return fmt.Sprintf("%s <<'EOF'\n%s\nEOF", command, strings.TrimSpace(input))
}

func (i *iptables) preview(ctx context.Context, c Config) (string, error) {
	if err := i.available(); err != nil {
		return "", err
	}
	have, err := i.save(ctx)
	if err != nil {
		return "", err
	}
	wanted := *i
	wanted.config = c
	script := wanted.script(have)
	if script == "" {
		return "", nil
	}
	return hereDocument(i.family.restore+" --noflush", script), nil
}

func (n *nftables) preview(_ context.Context, c Config) (string, error) {
	conn, err := nft.New(nft.AsLasting())
	if err != nil {
		return "", fmt.Errorf("open nftables: %w", err)
	}
	defer conn.CloseLasting() //nolint:errcheck // nothing was left in it
	wanted := *n
	wanted.config = c
	chains := wanted.chains()
	intact, err := wanted.intact(conn, chains)
	if err != nil || intact {
		return "", err
	}
	return hereDocument("nft -f -", wanted.script(chains)), nil
}

// script is the transaction of ensure in nft(8)'s words.
func (n *nftables) script(chains []baseChain) string {
	var s strings.Builder
	t := fmt.Sprintf("table %s %s", n.family.word(), n.family.table)
	fmt.Fprintf(&s, "%s\ndelete %s\n", t, t)
	if len(chains) == 0 {
		return s.String()
	}
	fmt.Fprintf(&s, "%s {\n", t)
	for _, c := range chains {
		hook := "forward priority filter"
		if c.Type == nft.ChainTypeNAT {
			hook = "postrouting priority srcnat"
		}
		fmt.Fprintf(&s, "\tchain %s {\n\t\ttype %s hook %s; policy accept;\n", c.Name, c.Type, hook)
		for _, r := range c.rules {
			fmt.Fprintf(&s, "\t\t%s\n", n.words(r))
		}
		s.WriteString("\t}\n")
	}
	s.WriteString("}\n")
	return s.String()
}

// words spells a rule as nft(8) does.
func (n *nftables) words(r rule) string {
	var w []string
	if r.marked {
		w = append(w, fmt.Sprintf("meta mark & %#x == %#x", kubernetesMark, kubernetesMark))
	}
	for _, m := range []struct {
		field string
		match
	}{{"saddr", r.src}, {"daddr", r.dst}} {
		switch {
		case !m.prefix.IsValid():
		case m.not:
			w = append(w, n.family.word(), m.field, "!=", m.prefix.String())
		default:
			w = append(w, n.family.word(), m.field, m.prefix.String())
		}
	}
	w = append(w, strings.ToLower(string(r.verdict)))
	if r.verdict == masquerade && !n.config.PredictablePorts {
		w = append(w, "fully-random")
	}
	return strings.Join(w, " ")
}
