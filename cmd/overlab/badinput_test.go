package main

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// header is how a lab file begins: two lines.
const header = "apiVersion: overlab/v1alpha1\nkind: Lab\n"

// labFile writes a lab file that the header begins, and returns its path.
func labFile(t testing.TB, text string) string {
	t.Helper()
	return rawFile(t, header+text)
}

func rawFile(t testing.TB, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "lab.yaml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// Every one is refused before anything is made, with the place and the mend.
func TestBadFiles(t *testing.T) {
	o := newOverlab(t)
	long := strings.Repeat("a", 80)
	for _, c := range []struct {
		name, text string
		// at is the position in the file, empty where no line is to blame.
		at    string
		words []string
	}{
		{"overlapping subnets", "spec:\n  nodes:\n  - {name: a, podCIDR: 10.244.1.0/24}\n  - {name: b, podCIDR: 10.244.1.0/24}\n",
			"6:24", []string{"spec.nodes[1].podCIDR", "overlaps a's 10.244.1.0/24; choose 10.244.2.0/24"}},
		{"overlapping segments", "spec:\n  underlay:\n  - {name: a, cidr: 172.16.1.0/24}\n  - {name: b, cidr: 172.16.1.128/25}\n",
			"6:21", []string{"spec.underlay[1].cidr", "overlaps the 172.16.1.0/24 of segment a", "choose one outside it"}},
		{"underlay inside the overlay", "spec:\n  underlay:\n  - {name: a, cidr: 10.244.3.0/24}\n",
			"5:21", []string{"overlaps the overlay's network 10.244.0.0/16"}},
		{"pod outside its node's subnet", "spec:\n  nodes: [{name: a}]\n  pods:\n  - {name: p, node: a, address: 10.244.9.9}\n",
			"6:33", []string{"spec.pods[0].address", "outside the 10.244.0.0/24 of its node a", "choose one from 10.244.0.2 on"}},
		{"two nodes of a name", "spec:\n  nodes:\n  - {name: a}\n  - {name: a}\n",
			"6:12", []string{"spec.nodes[1].name", "as is spec.nodes[0].name"}},
		{"pod with a node's name", "spec:\n  nodes: [{name: a}]\n  pods:\n  - {name: a, node: a}\n",
			"6:12", []string{"spec.pods[0].name", "need different names"}},
		{"two pods of an address", "spec:\n  nodes: [{name: a}]\n  pods:\n  - {name: p, node: a, address: 10.244.0.9}\n  - {name: q, node: a, address: 10.244.0.9}\n",
			"7:33", []string{"spec.pods[1].address", "choose another"}},
		{"two nodes of an address", "spec:\n  nodes:\n  - {name: a, interfaces: [{address: 172.16.1.9}]}\n  - {name: b, interfaces: [{address: 172.16.1.9}]}\n",
			"6:38", []string{"spec.nodes[1].interfaces[0].address", "choose another"}},
		{"unknown backend", "spec:\n  network: {Backend: {Type: vxlann}}\n",
			"4:29", []string{"spec.network.Backend.Type", `did you mean "vxlan"?`}},
		{"ipsec without a key", "spec:\n  network: {Backend: {Type: ipsec}}\n",
			"4:22", []string{"spec.network.Backend.PSK", "openssl rand -hex 48"}},
		{"provider that is not in this build", "spec: {provider: vagrant}\n",
			"", []string{"spec.provider", "vagrant is not in this build, which has netns and kind"}},
		{"dual stack over ipip", "spec:\n  network: {EnableIPv6: true, Backend: {Type: ipip}}\n",
			"4:47", []string{"spec.network.Backend.Type", "which carries IPv4 alone"}},
		{"dual stack with a long VNI", "spec:\n  network: {EnableIPv6: true, Backend: {VNI: 10000}}\n",
			"4:46", []string{"spec.network.Backend.VNI", "flannel-v6.VNI, has room for four digits"}},
		{"network too small", "spec:\n  network: {Network: 10.244.0.0/30}\n",
			"4:22", []string{"spec.network.Network", "too small", "/28"}},
		{"network of one subnet", "spec:\n  network: {Network: 10.244.0.0/24, SubnetLen: 24}\n",
			"4:48", []string{"spec.network.SubnetLen", "write 26 to 30, or widen Network"}},
		{"MTU below IPv4's least", "spec:\n  underlay:\n  - {name: lan, cidr: 172.16.1.0/24, mtu: 575}\n",
			"5:43", []string{"spec.underlay[0].mtu", "575", "576 to 65535 bytes"}},
		{"MTU above the kernel's", "spec:\n  underlay:\n  - {name: lan, cidr: 172.16.1.0/24, mtu: 65536}\n",
			"5:43", []string{"spec.underlay[0].mtu", "65536", "576 to 65535 bytes"}},
		{"lab's name with a slash", "metadata: {name: a/b}\nspec: {}\n",
			"3:18", []string{"metadata.name", `"a/b"`, "lower-case letters, digits and hyphens"}},
		{"node's name with a slash", "spec:\n  nodes:\n  - {name: ../b}\n",
			"5:12", []string{"spec.nodes[0].name", `"../b"`}},
		{"lab's name of 80 characters", "metadata: {name: " + long + "}\nspec: {}\n",
			"3:18", []string{"metadata.name", "80 characters long; at most 40"}},
		{"node's name of 80 characters", "spec:\n  nodes:\n  - {name: " + long + "}\n",
			"5:12", []string{"spec.nodes[0].name", "80 characters long; at most 63"}},
		{"anchor that is not there", "spec:\n  nodes:\n  - *n\n",
			"5:5", []string{"the alias *n stands for nothing", "write &n"}},
		{"anchor that repeats a name", "spec:\n  nodes:\n  - &n {name: a}\n  - *n\n",
			"5:15", []string{"spec.nodes[1].name"}},
		{"tab", "spec:\n\tnodes: []\n",
			"4:1", []string{"a tab indents this line; YAML indents with spaces only"}},
		{"unknown key", "spec:\n  noodes: []\n",
			"4:3", []string{"spec.noodes", `did you mean "nodes"?`}},
		{"not YAML", "spec: [\n",
			"4:1", []string{"not YAML"}},
		{"two documents", "spec: {}\n---\nspec: {}\n",
			"4:1", []string{"a second document begins here"}},
		{"health check on the store's port", "spec:\n  agent: {args: [--healthz-port=2379]}\n",
			"4:17", []string{"spec.agent.args", "port 2379, where the store listens", "choose another port"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			path := labFile(t, c.text)
			for _, command := range []string{"up", "validate"} {
				o.refuses(t, path, c.at, c.words, command, path)
			}
		})
	}
	for _, c := range []struct {
		name, text string
		words      []string
	}{
		{"empty file", "", []string{"the file is empty", "the smallest lab is"}},
		{"file of 10 MB", strings.Repeat("# ten megabytes\n", 10<<20/16), []string{"larger than 1 MiB"}},
		{"list", "- a\n", []string{"the file holds a list"}},
		{"binary", "\x00\x01\x02", []string{"lab.yaml:1:1"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			path := rawFile(t, c.text)
			o.refuses(t, path, "1:1", c.words, "up", path)
		})
	}
	t.Run("every error at once", func(t *testing.T) {
		path := labFile(t, "metadata: {name: A}\nspec:\n  nodes:\n  - {name: a, count: 0}\n  noodes: []\n")
		r := o.run(t, "validate", path)
		if lines := strings.Count(r.err, "\n"); r.code != 2 || lines != 3 {
			t.Errorf("%d lines for three errors: %s", lines, r)
		}
	})
	t.Run("missing file", func(t *testing.T) {
		o.refuses(t, "", "", []string{"./missing.yaml", "no such file"}, "up", "./missing.yaml")
	})
	t.Run("folder", func(t *testing.T) {
		o.refuses(t, "", "", []string{"is a directory"}, "up", t.TempDir())
	})
	t.Run("lab that does not ship", func(t *testing.T) {
		o.refuses(t, "", "", []string{`"defualt"`, "did you mean default?"}, "up", "defualt")
	})
	t.Run("containerd's flags on a cluster", func(t *testing.T) {
		o.refuses(t, "", "", []string{"--containerd-address (or OVERLAB_CONTAINERD_ADDRESS): the pods of provider kind are Kubernetes'", "--containerd-namespace"},
			"up", "--provider=kind", "--containerd-address=/run/x", "--containerd-namespace=moby")
	})
	t.Run("--name that is none", func(t *testing.T) {
		o.refuses(t, "", "", []string{`--name: is "a/b"; write lower-case letters`}, "up", "--name", "a/b")
		o.refuses(t, "", "", []string{"--name", "at most 40"}, "up", "--name", long)
	})
}

// refuses runs a command line that is refused with exit code 2 and words, at a
// position in the file path, and makes nothing.
func (o *overlab) refuses(t *testing.T, path, at string, words []string, args ...string) {
	t.Helper()
	r := o.run(t, args...)
	if at != "" {
		words = append(slices.Clone(words), path+":"+at+": ")
	}
	if r.code != 2 || r.out != "" {
		t.Error(r)
	}
	for _, w := range words {
		if !strings.Contains(r.err, w) {
			t.Errorf("%v does not say %q but\n%s", args, w, r.err)
		}
	}
	if _, err := os.Stat(o.state); err == nil {
		t.Errorf("%v made the state folder", args)
	}
}

// The extremes that are allowed come up.
func TestExtremesThatAreAllowed(t *testing.T) {
	needLabs(t)
	o := newOverlab(t)
	name := strings.Repeat("a", 40)
	for what, text := range map[string]string{
		"smallest MTU": "spec:\n  underlay:\n  - {name: lan, cidr: 172.16.1.0/24, mtu: 576}\n",
		"greatest MTU": "spec:\n  underlay:\n  - {name: lan, cidr: 172.16.1.0/24, mtu: 65535}\n",
		"long names":   "metadata: {name: " + name + "}\nspec:\n  nodes: [{name: " + strings.Repeat("n", 63) + "}, {name: b}]\n",
		"a lone node":  "spec: {nodes: [{name: a}]}\n",
		"no pods":      "spec: {nodes: [{name: a}, {name: b}], pods: []}\n",
		"anchors":      "spec:\n  nodes:\n  - &n {name: a, agent: &a {ipMasq: false}}\n  - {name: b, agent: *a}\n",
		// The CNI plugin masquerades in the agent's place, by running nft.
		"no masquerading agent": "spec: {agent: {ipMasq: false}}\n",
		"smaller subnet":        "spec: {network: {Network: 10.9.0.0/24, SubnetLen: 28}}\n",
	} {
		t.Run(what, func(t *testing.T) {
			o.must(t, "up", labFile(t, text))
			o.must(t, "exec", "underlay", "--", "true")
			o.must(t, "down", "--all")
		})
	}
}

func TestForeignAgents(t *testing.T) {
	needLabs(t)
	o := newOverlab(t)
	machine := o.watch(t)
	for _, c := range []struct {
		name, command string
		words         []string
	}{
		{"exits at once", `[sh, -c, "echo starting; echo cannot find the interface >&2; exit 4", agent]`,
			[]string{"'s agent ended (exit code 4); it printed:", "starting", "cannot find the interface"}},
		{"exits without a word", `["false"]`, []string{"'s agent ended (exit code 1); it printed nothing"}},
		{"is killed", `[sh, -c, "kill -SEGV $$", agent]`, []string{"killed by signal 11 (SIGSEGV)"}},
		{"is not in PATH", "[no-such-agent]", []string{"node master's agent: no-such-agent: no such program in /"}},
		{"is not there", "[/no/such/agent]", []string{"node master's agent", "/no/such/agent", "no such file"}},
		{"is no program", "[/etc/passwd]", []string{"node master's agent", "/etc/passwd", "permission denied"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := o.run(t, "up", labFile(t, "spec:\n  agent: {command: "+c.command+"}\n"))
			if r.code != 2 {
				t.Error(r)
			}
			contains(t, r.err, c.words...)
			machine.unchanged(t, c.name)
		})
	}
}

// Any program with flanneld's flags is an agent: here the bundled one under
// another name, behind a shell.
func TestForeignAgentThatWorks(t *testing.T) {
	o := labUp(t, labFile(t, `spec:
  agent: {command: [sh, -c, 'echo "$@" >&2; exec overlabd "$@"', agent]}
`))
	o.must(t, "test", "TTL", "CP")
	log, err := os.ReadFile(o.inspect(t).Status.Agents[1].Log)
	if err != nil {
		t.Fatal(err)
	}
	contains(t, string(log), "--etcd-endpoints=http://172.16.1.1:2379", "--ip-masq=true")
}

// An agent that programs what a lease needs once and repairs nothing passes what
// every overlay must, and not what asks for repairs.
func TestForeignAgentThatRepairsNothing(t *testing.T) {
	for _, tool := range []string{"ip", "bridge", "iptables", "sed", "grep", "mkfifo"} {
		need(t, tool)
	}
	script, err := filepath.Abs("testdata/once.sh")
	if err != nil {
		t.Fatal(err)
	}
	o := labUp(t, labFile(t, "spec:\n  agent: {command: ["+script+"], ipMasq: false}\n"))
	eventually(t, "every node serves every other", func() bool { return o.run(t, "test", "CP-0[123]").code == 0 })
	v := o.allPass(t)
	t.Logf("%d core checks: %v", len(v.Results), v.Summary)
	for _, id := range []string{"RS-05", "RS-06"} {
		r := o.run(t, "test", id, "--timeout-scale", "0.2")
		if r.code != 1 {
			t.Error(id, r)
		}
		contains(t, r.out, "FAIL", "expected repaired: ")
	}
}

// Hardened agents pass the checks of every level, with either of the programs
// that carry their other rules, and are as the oracle says.
func TestHardenedLab(t *testing.T) {
	need(t, "nft")
	for name, network := range map[string]string{
		"iptables":             "{}",
		"nftables, dual stack": "{EnableNFTables: true, EnableIPv6: true, IPv6Network: 'fc00::/48'}",
	} {
		t.Run(name, func(t *testing.T) {
			o := labUp(t, labFile(t, "spec:\n  agent: {args: [--harden]}\n  network: "+network+"\n"))
			o.diff(t, 0)
			v := o.allPass(t, "--level", "C,E,H,R,I")
			for _, r := range v.Results {
				if slices.Contains([]string{"SE-05", "SE-06", "WF-05R", "WF-06R"}, r.ID) && r.Verdict != "pass" {
					t.Errorf("%s is %s", r.ID, r.Verdict)
				}
			}
			agent := fmt.Sprint(o.inspect(t).Status.Agents[1].PID)
			o.must(t, "exec", "node-1", "--", "sh", "-c", "kill -STOP "+agent+" && nft delete table inet flannel-harden")
			if d := o.diff(t, 1); len(d.Entries) != 4 {
				t.Errorf("%d differences without the table, not 4: %v", len(d.Entries), d.Entries)
			}
			o.must(t, "exec", "node-1", "--", "kill", "-CONT", agent)
			eventually(t, "the table is back", func() bool { return o.run(t, "diff").code == 0 })
		})
	}
}

// A full disk, or one without room for another file, under the state folder.
func TestFullDisk(t *testing.T) {
	needLabs(t)
	o := newOverlab(t)
	machine := o.watch(t)
	flags := uintptr(unix.CLONE_NEWNS)
	if os.Getuid() != 0 {
		flags |= unix.CLONE_NEWUSER
	}
	for _, options := range []string{"size=4k", "size=16k,nr_inodes=2", "size=16k,nr_inodes=3", "size=16k,nr_inodes=4"} {
		cmd := o.helper(helperFullDisk, flags, 0, o.state, options, program(), "up")
		r := finish(t, cmd)
		if r.code == helperFailed && strings.Contains(r.err, "operation not permitted") {
			t.Skip("SKIPPED, NOT TESTED: this machine lets nobody mount a tmpfs:", r.err)
		}
		if r.code != 2 || !strings.Contains(r.err, "no space left on device") || !strings.Contains(r.err, o.state) {
			t.Errorf("%s: %s", options, r)
		}
		if r.out != "fill\n" {
			t.Errorf("%s: left on the disk: %q", options, r.out)
		}
		if err := os.Remove(o.state); err != nil { // where the tmpfs was
			t.Error(err)
		}
		machine.settles(t, options)
	}
}

// A user who may make no user namespaces learns which setting forbids it.
func TestNoUserNamespaces(t *testing.T) {
	needLabs(t)
	o := newOverlab(t)
	const uid = 1000
	run := func(args ...string) result {
		cmd := o.helper(helperNoNamespaces, unix.CLONE_NEWUSER, uid, append([]string{program()}, args...)...)
		cmd.SysProcAttr.AmbientCaps = []uintptr{unix.CAP_SYS_RESOURCE}
		r := finish(t, cmd)
		if r.code == helperFailed {
			t.Skip("SKIPPED, NOT TESTED: user.max_user_namespaces cannot be set here:", r.err)
		}
		return r
	}
	r := run("up")
	if r.code != 2 {
		t.Error(r)
	}
	contains(t, r.err, "user.max_user_namespaces is 0", "sudo sysctl user.max_user_namespaces=", "overlab doctor")
	if left := o.left(); len(left) > 0 {
		t.Error("left behind:", left)
	}
	r = run("doctor")
	if r.code != 2 {
		t.Error(r)
	}
	contains(t, r.out, "✗ user.max_user_namespaces", "sudo sysctl user.max_user_namespaces=")
	contains(t, r.err, "this machine cannot run labs yet")
}

// Where the state folder cannot be, and who may not have it.
func TestStateFolderThatCannotBe(t *testing.T) {
	needLabs(t)
	for name, c := range map[string]struct{ dir, says string }{
		"below a file": {"/etc/passwd/labs", "not a directory"},
		"in /proc":     {"/proc/labs", "/proc/labs"},
	} {
		o := newOverlab(t)
		cmd := o.command("up")
		cmd.Env = append(cmd.Env, "OVERLAB_STATE_DIR="+c.dir)
		if r := finish(t, cmd); r.code != 2 || !strings.Contains(r.err, c.says) {
			t.Errorf("%s: %s", name, r)
		}
	}
	o := newOverlab(t)
	file := filepath.Join(o.state, "default", "thesis.tex")
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(o.state)
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	r := o.run(t, "up")
	if r.code != 2 {
		t.Error(r)
	}
	contains(t, r.err, fmt.Sprintf("state folder %s holds files that no lab put there (thesis.tex)", filepath.Dir(file)))
	if _, err := os.Stat(file); err != nil {
		t.Error(err)
	}
}
