package firewall

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"slices"
	"strings"

	nft "github.com/google/nftables"
)

// iptables carries the rules by the programs iptables-save and
// iptables-restore, or ip6tables-save and so on, whichever kernel interface
// they use.
type iptables struct {
	config Config
	family family
	// predictable is set when the program knows no --random-fully.
	predictable bool
}

// chain is one of our chains and the built-in chain that jumps to it.
type chain struct {
	table, name, from, comment string
	rules                      []rule
}

func (i *iptables) chains() []chain {
	return []chain{
		{"filter", "FLANNEL-FWD", "FORWARD", "flanneld forward", i.config.forwardRules()},
		{"nat", "FLANNEL-POSTRTG", "POSTROUTING", "flanneld masq", i.config.masqueradeRules()},
	}
}

func (i *iptables) name() string { return "iptables" }

func (i *iptables) available() error {
	for _, program := range []string{i.family.save, i.family.restore} {
		if _, err := exec.LookPath(program); err != nil {
			return err
		}
	}
	return nil
}

func (i *iptables) ensure(ctx context.Context) (bool, error) {
	have, err := i.save(ctx)
	if err != nil {
		return false, err
	}
	script := i.script(have)
	if script == "" {
		return false, nil
	}
	err = i.restore(ctx, script)
	if err != nil && !i.predictable && strings.Contains(err.Error(), "random-fully") {
		i.predictable = true // iptables before 1.6.2
		err = i.restore(ctx, i.script(have))
	}
	return true, err
}

func (i *iptables) remove(ctx context.Context) error {
	if err := i.available(); err != nil {
		return err
	}
	have, err := i.save(ctx)
	if err != nil {
		return err
	}
	script := (&iptables{family: i.family}).script(have)
	if script == "" {
		return nil
	}
	return i.restore(ctx, script)
}

// saved is the output of iptables-save: for each table and chain its rules, as
// "-A CHAIN …". A chain without rules is there, and empty.
type saved map[string]map[string][]string

// save reads all tables with one process, or with none on a fresh node.
func (i *iptables) save(ctx context.Context) (saved, error) {
	if i.family.empty() {
		return saved{}, nil
	}
	out, err := run(ctx, "", i.family.save)
	if err != nil {
		return nil, err
	}
	have, table := saved{}, ""
	for line := range strings.Lines(out) {
		line = strings.TrimSpace(line)
		switch {
		case strings.HasPrefix(line, "*"):
			table = line[1:]
			have[table] = map[string][]string{}
		case strings.HasPrefix(line, ":"):
			name, _, _ := strings.Cut(line[1:], " ")
			have[table][name] = nil
		case strings.HasPrefix(line, "-A "):
			name, _, _ := strings.Cut(line[3:], " ")
			have[table][name] = append(have[table][name], line)
		}
	}
	return have, nil
}

// empty reports whether neither of iptables' kernel interfaces has a table.
// Starting a program to be told so is the greater part of a node's start.
func (f family) empty() bool {
	legacy, err := os.ReadFile("/proc/thread-self/net/" + f.tables)
	if len(legacy) > 0 || err != nil && !errors.Is(err, fs.ErrNotExist) {
		return false
	}
	conn, err := nft.New()
	if err != nil {
		return false
	}
	tables, err := conn.ListTablesOfFamily(f.nft)
	return err == nil && len(tables) == 0
}

// script returns the input of iptables-restore --noflush that makes have what
// is wanted; empty where nothing is to do.
func (i *iptables) script(have saved) string {
	var s strings.Builder
	for _, c := range i.chains() {
		lines := i.repair(c, have[c.table])
		if len(lines) > 0 {
			fmt.Fprintf(&s, "*%s\n%s\nCOMMIT\n", c.table, strings.Join(lines, "\n"))
		}
	}
	return s.String()
}

// repair returns the lines that mend one chain.
func (i *iptables) repair(c chain, have map[string][]string) []string {
	present, exists := have[c.name]
	jump := fmt.Sprintf("%s -m comment --comment %q -j %s", c.from, c.comment, c.name)
	jumps := 0
	for _, line := range have[c.from] {
		if line == "-A "+jump {
			jumps++
		}
	}
	var out []string
	if len(c.rules) == 0 {
		if exists {
			out = append(out, slices.Repeat([]string{"-D " + jump}, jumps)...)
			out = append(out, "-F "+c.name, "-X "+c.name)
		}
		return out
	}
	var want []string
	for _, r := range c.rules {
		want = append(want, i.words(c, r))
	}
	if !exists || !slices.Equal(want, present) {
		// The declaration makes the chain, or empties it.
		out = append(append(out, ":"+c.name+" - [0:0]"), want...)
	}
	if jumps == 0 {
		out = append(out, "-A "+jump)
	}
	if jumps > 1 {
		out = append(out, slices.Repeat([]string{"-D " + jump}, jumps-1)...)
	}
	return out
}

// words spells a rule as iptables-save does.
func (i *iptables) words(c chain, r rule) string {
	w := []string{"-A", c.name}
	for _, m := range []struct {
		flag string
		match
	}{{"-s", r.src}, {"-d", r.dst}} {
		if m.not {
			w = append(w, "!")
		}
		if m.prefix.IsValid() {
			w = append(w, m.flag, m.prefix.String())
		}
	}
	if r.marked {
		w = append(w, "-m", "mark", "--mark", fmt.Sprintf("%#x/%#x", kubernetesMark, kubernetesMark))
	}
	w = append(w, "-m", "comment", "--comment", fmt.Sprintf("%q", c.comment), "-j", string(r.verdict))
	if r.verdict == masquerade && !i.config.PredictablePorts && !i.predictable {
		w = append(w, "--random-fully")
	}
	return strings.Join(w, " ")
}

// restore applies the script in one step a table.
func (i *iptables) restore(ctx context.Context, script string) error {
	_, err := run(ctx, script, i.family.restore, "--noflush", "--wait", "5")
	if err != nil && (strings.Contains(err.Error(), "unrecognized option") || strings.Contains(err.Error(), "unknown option \"--wait\"")) {
		_, err = run(ctx, script, i.family.restore, "--noflush") // before 1.6.2
	}
	return err
}

func run(ctx context.Context, stdin, program string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Stdin = strings.NewReader(stdin)
	var out, complaints bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &complaints
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("%s: %w: %s", program, err, strings.TrimSpace(complaints.String()))
	}
	return out.String(), nil
}
