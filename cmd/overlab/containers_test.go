package main

import (
	"bytes"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/moby/sys/userns"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"

	"github.com/overlab/overlab/internal/ociimage"
	"github.com/overlab/overlab/internal/podimage"
	"github.com/overlab/overlab/topology"
)

// needContainers skips a test where a lab has no containers.
func needContainers(t testing.TB) {
	t.Helper()
	needLabs(t)
	if os.Geteuid() != 0 || userns.RunningInUserNS() {
		t.Skip("SKIPPED, NOT TESTED: a lab of containers needs root of the machine")
	}
	for _, tool := range []string{"containerd", "containerd-shim-runc-v2", "runc"} {
		need(t, tool)
	}
	if p, err := podimage.Find(os.Getenv("PATH")); err != nil || p.Overlab {
		t.Skip("SKIPPED, NOT TESTED: this machine has no busybox that is linked statically")
	}
}

// cgroups lists the machine's control groups that a lab of the containers could
// have made: those that are named after them.
func cgroups(t testing.TB, containers []topology.ContainerStatus) []string {
	t.Helper()
	var found []string
	_ = filepath.WalkDir("/sys/fs/cgroup", func(path string, d fs.DirEntry, err error) error {
		named := func(c topology.ContainerStatus) bool { return strings.Contains(filepath.Base(path), c.ID) }
		if err == nil && d.IsDir() && slices.ContainsFunc(containers, named) {
			found = append(found, path)
		}
		return nil // a group that went meanwhile is none of ours
	})
	return found
}

// Every pod is a container in the pod's own network namespace:
//
//	master                node-1                node-2
//	pod-1 pod-2           pod-3 pod-4           pod-5 pod-6
//	10.244.0.2 .3         10.244.1.2 .3         10.244.2.2 .3
//	   |                     |                     |
//	   +---------------------+----------lan--------+
func TestContainers(t *testing.T) {
	needContainers(t)
	o := newOverlab(t)
	machine := o.watch(t)
	o.must(t, "up", labFile(t, "spec: {runtime: containerd}\n"))
	all := o.inspect(t).Status.Containers
	if len(all) != 6 || all[0].Pod != "pod-1" || all[5].Pod != "pod-6" {
		t.Fatalf("containers %+v", all)
	}
	for _, c := range all {
		if c.State != topology.ContainerRunning || c.PID == 0 || c.Image != podimage.Name || !strings.HasPrefix(c.Digest, "sha256:") {
			t.Errorf("%+v", c)
		}
	}
	if got := cgroups(t, all); len(got) > 0 {
		t.Errorf("control groups on the host: %s", got)
	}
	var judged verdicts
	o.json(t, &judged, "test", "-o", "json")
	if s := judged.Summary; s["pass"] < 20 || s["pass"]+s["not-applicable"] != len(judged.Results) {
		t.Errorf("overlab test: %v", s)
	}
	for _, c := range []struct {
		name string
		test func(*testing.T, *overlab)
	}{
		{"files", containerFiles},
		{"network", containerNetwork},
		{"capabilities", containerCapabilities},
		{"exit codes", containerExits},
		{"terminal", containerTerminal},
		{"logs", containerLogs},
		{"kubectl", containerKubectl},
		{"killed", containerKilled},
		{"without containerd", containerWithoutContainerd},
	} {
		t.Run(c.name, func(t *testing.T) { c.test(t, o) })
	}
	contains(t, o.must(t, "inspect"), "pods are containers of containerd", "killed by signal 9 (SIGKILL)")
	o.allPass(t, "NM-0[1-6]") // whatever runs in a pod, its namespace is the lab's
	o.must(t, "down")
	machine.unchanged(t, "after down")
	if got := cgroups(t, all); len(got) > 0 {
		t.Errorf("control groups after down: %s", got)
	}
}

// A command in a pod sees the image's files, not the node's.
func containerFiles(t *testing.T, o *overlab) {
	in := func(command string) string { return o.must(t, "exec", "pod-3", "--", "sh", "-c", command) }
	if got := in("readlink /bin/sh; ls -d /usr /home 2>/dev/null; true"); got != "busybox\n" {
		t.Errorf("the pod's files: %q", got)
	}
	if got, want := in("cat /etc/hostname; uname -n; hostname; echo $HOSTNAME $OVERLAB_LAB"), "pod-3\npod-3\npod-3\npod-3 lab\n"; got != want {
		t.Errorf("the pod's name: %q, want %q", got, want)
	}
	contains(t, in("cat /etc/hosts"), "10.244.1.2 pod-3\n")
	in("echo kept > /root/file")
	if got := in("cat /root/file"); got != "kept\n" {
		t.Errorf("a file that a command wrote: %q", got)
	}
	if r := o.run(t, "exec", "pod-4", "--", "cat", "/root/file"); r.code == 0 {
		t.Error("another pod of the image sees it:", r)
	}
}

// The container's network is the pod's: the node's veth leads to it, and its
// packets cross the overlay.
func containerNetwork(t *testing.T, o *overlab) {
	contains(t, o.must(t, "exec", "pod-3", "--", "ip", "addr", "show", "dev", "eth0"), "10.244.1.2/24", "mtu 1450")
	contains(t, o.must(t, "exec", "pod-3", "--", "ping", "-c1", "10.244.2.2"), "1 packets received", "ttl=62")
	contains(t, o.must(t, "exec", "pod-3", "--", "ls", "/sys/class/net"), "eth0")
}

// A command in a pod has no more rights than the pod's own program.
func containerCapabilities(t *testing.T, o *overlab) {
	const command = "grep -E '^Cap(Prm|Eff|Bnd)' /proc/%s/status"
	of := func(pid string) string {
		return o.must(t, "exec", "pod-3", "--", "sh", "-c", fmt.Sprintf(command, pid))
	}
	if own, mine := of("1"), of("self"); own != mine {
		t.Errorf("the program has\n%sa command\n%s", own, mine)
	}
	if r := o.run(t, "exec", "pod-3", "--", "ip", "link", "set", "eth0", "down"); r.code == 0 {
		t.Error("a pod may change its links:", r)
	}
}

func containerExits(t *testing.T, o *overlab) {
	for _, c := range []struct {
		argv []string
		code int
	}{
		{[]string{"true"}, 0},
		{[]string{"sh", "-c", "exit 3"}, 3},
		{[]string{"sh", "-c", "kill -KILL $$"}, 128 + 9},
		{[]string{"no-such-program"}, 127},
		{[]string{"bash"}, 127}, // which the node has
		{[]string{"/etc/passwd"}, 126},
	} {
		if r := o.run(t, append([]string{"exec", "pod-1", "--"}, c.argv...)...); r.code != c.code {
			t.Errorf("%q: %s; want exit code %d", c.argv, r, c.code)
		}
	}
	cmd := o.command("exec", "pod-1", "--", "cat")
	cmd.Stdin = strings.NewReader("through\n")
	if r := finish(t, cmd); r.out != "through\n" {
		t.Error("standard input:", r)
	}
}

func containerTerminal(t *testing.T, o *overlab) {
	x := onTerminal(t, o.command("shell", "pod-3"))
	const prompt = "root@pod-3:/# "
	x.expect(t, prompt)
	x.typed(t, "stty size; readlink /bin/sh\n")
	contains(t, x.expect(t, prompt), "33 99", "busybox")
	x.typed(t, "sh -c 'echo read''y; exec sleep 1000'\n")
	x.expect(t, "ready")
	x.typed(t, "\x03")
	x.expect(t, prompt)
	x.typed(t, "exit 5\n")
	if code := x.exit(t); code != 5 {
		t.Errorf("exit code %d", code)
	}
}

func containerLogs(t *testing.T, o *overlab) {
	if got, want := o.must(t, "logs", "pod-3"), "pod pod-3 has 10.244.1.2/24\n"; got != want {
		t.Errorf("logs: %q, want %q", got, want)
	}
	contains(t, o.must(t, "logs", "pod-1", "node-1"), "pod-1  | pod pod-1 has 10.244.0.2/24\n", "node-1 | ")
	contains(t, o.must(t, "logs", "containerd"), "containerd successfully booted")
}

// The stand-in for kubectl on a node enters the container, too.
func containerKubectl(t *testing.T, o *overlab) {
	if got := o.must(t, "exec", "master", "--", "kubectl", "exec", "pod-3", "--", "readlink", "/bin/sh"); got != "busybox\n" {
		t.Errorf("kubectl exec sees %q", got)
	}
}

// A container that is killed stays so, and inspect says how it ended.
func containerKilled(t *testing.T, o *overlab) {
	victim := func() topology.ContainerStatus { return o.inspect(t).Status.Containers[1] }
	o.must(t, "exec", "master", "--", "sh", "-c", fmt.Sprintf("kill -9 %d", victim().PID))
	eventually(t, "pod-2's container has ended", func() bool { return victim().State == topology.ContainerEnded })
	if v := victim(); v.LastExit != "killed by signal 9 (SIGKILL)" || v.PID != 0 || v.Ended.Before(v.Started) {
		t.Errorf("%+v", v)
	}
	if r := o.run(t, "exec", "pod-2", "--", "true"); r.code != 2 || !strings.Contains(r.err, "the container of pod pod-2 does not run: killed by signal 9 (SIGKILL)") {
		t.Error("exec in it:", r)
	}
}

// Where containerd has died, containers run on and can be entered; inspect says
// that nobody would know of their end.
func containerWithoutContainerd(t *testing.T, o *overlab) {
	for _, p := range processes() {
		if p.mentions(o.state) && strings.Contains(p.argv, "containerd\x00--config") {
			if err := unix.Kill(p.pid, unix.SIGKILL); err != nil {
				t.Fatal(err)
			}
		}
	}
	pod := func() topology.ContainerStatus { return o.inspect(t).Status.Containers[2] }
	eventually(t, "pod-3's container is unknown", func() bool { return pod().State == topology.ContainerUnknown })
	if p := pod(); p.PID == 0 || !strings.Contains(p.LastExit, "containerd") {
		t.Errorf("%+v", p)
	}
	contains(t, o.must(t, "exec", "pod-3", "--", "ping", "-c1", "10.244.2.2"), "1 packets received")
}

// Programs of the images and of the pods, users, folders, and ends of their own.
func TestContainerImages(t *testing.T) {
	needContainers(t)
	o := newOverlab(t)
	busybox, err := podimage.Find(os.Getenv("PATH"))
	if err != nil {
		t.Fatal(err)
	}
	archive := filepath.Join(t.TempDir(), "own.tar")
	writeImage(t, archive, ociimage.Image{
		Name: "registry.example/own:1",
		Layers: []ociimage.Layer{ociimage.Files(
			ociimage.File{Path: "/bin/busybox", Mode: 0o755, Source: busybox.File},
			ociimage.File{Path: "/bin/sh", Link: "busybox"},
			ociimage.File{Path: "/srv/data", Mode: 0o644, Content: []byte("of the image\n")},
		)},
		Config: v1.ImageConfig{
			User: "1000:1001", WorkingDir: "/srv", Env: []string{"PATH=/bin", "COLOUR=green"},
			Entrypoint: []string{"sh", "-c", `echo "$COLOUR, $(busybox id -u)"; exec busybox sleep 1000`},
		},
	})
	o.must(t, "up", labFile(t, `spec:
  runtime: containerd
  image: file:`+archive+`
  pods:
  - {name: plain, node: node-1}
  - {name: other, node: node-1, command: [busybox, sh, -c, "busybox cat data; exit 3"]}
  - {name: builtin, node: node-2, image: "file:`+builtin(t, o)+`"}
`))
	eventually(t, "all have said something", func() bool {
		return o.must(t, "logs", "plain") != "" && o.must(t, "logs", "other") != "" && o.must(t, "logs", "builtin") != ""
	})
	for pod, want := range map[string]string{"plain": "green, 1000\n", "other": "of the image\n", "builtin": "pod builtin has 10.244.2.2/24\n"} {
		if got := o.must(t, "logs", pod); got != want {
			t.Errorf("%s printed %q, want %q", pod, got, want)
		}
	}
	const command = "busybox id -u; busybox id -g; busybox pwd; echo $COLOUR $PATH; busybox cat data"
	if got, want := o.must(t, "exec", "plain", "--", "sh", "-c", command), "1000\n1001\n/srv\ngreen /bin\nof the image\n"; got != want {
		t.Errorf("a command in the pod: %q, want %q", got, want)
	}
	eventually(t, "other has ended", func() bool {
		c := o.inspect(t).Status.Containers[1]
		return c.Pod == "other" && c.State == topology.ContainerEnded && c.LastExit == "exit code 3"
	})
	if got := o.inspect(t).Status.Containers[0].Image; got != "registry.example/own:1" {
		t.Errorf("the image is called %s", got)
	}
}

func writeImage(t *testing.T, file string, images ...ociimage.Image) {
	t.Helper()
	var b bytes.Buffer
	if err := ociimage.Write(&b, images...); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, b.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
}

// builtin is the archive that `overlab image pod` writes.
func builtin(t *testing.T, o *overlab) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "pod.tar")
	if got := o.must(t, "image", "pod", "-f", file); got != file+"\n" {
		t.Errorf("image pod printed %q", got)
	}
	return file
}

// An image of a containerd that runs is read from it, and that containerd is
// left as it was.
func TestContainerImageStore(t *testing.T) {
	needContainers(t)
	need(t, "ctr")
	o := newOverlab(t)
	socket := foreignContainerd(t)
	ctr := func(args ...string) string {
		t.Helper()
		out, err := exec.Command("ctr", append([]string{"--address", socket, "--namespace", "theirs"}, args...)...).CombinedOutput()
		if err != nil {
			t.Fatalf("ctr %v: %v\n%s", args, err, out)
		}
		return string(out)
	}
	ctr("images", "import", builtin(t, o))
	look := func() string { return ctr("images", "ls", "-q") + ctr("containers", "ls", "-q") }
	before := look()
	lab := labFile(t, "spec: {runtime: containerd, image: \""+podimage.Name+"\"}\n")
	up := []string{"up", "--containerd-address", socket, "--containerd-namespace"}
	if r := o.run(t, append(up, "others", lab)...); r.code != 2 || !strings.Contains(r.err, "has no image "+podimage.Name+" in its namespace others") {
		t.Error("an image that is not there:", r)
	}
	o.must(t, append(up, "theirs", lab)...)
	contains(t, o.must(t, "exec", "pod-3", "--", "ping", "-c1", "10.244.2.2"), "1 packets received")
	o.must(t, "down")
	if after := look(); after != before {
		t.Errorf("their containerd had\n%s\nand has\n%s", before, after)
	}
}

// foreignContainerd starts a containerd that belongs to no lab, until the test
// ends, and returns its socket.
func foreignContainerd(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp(os.Getenv(folder), "c")
	if err != nil {
		t.Fatal(err)
	}
	socket, config := filepath.Join(dir, "s"), filepath.Join(dir, "config.toml")
	text := fmt.Sprintf("version = 2\nroot = %q\nstate = %q\ndisabled_plugins = [\"io.containerd.grpc.v1.cri\", \"io.containerd.cri.v1.images\", \"io.containerd.cri.v1.runtime\", \"io.containerd.nri.v1.nri\", \"io.containerd.internal.v1.opt\"]\n[grpc]\n  address = %q\n",
		filepath.Join(dir, "root"), filepath.Join(dir, "state"), socket)
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("containerd", "--config", config)
	var log bytes.Buffer
	cmd.Stdout, cmd.Stderr = &log, &log
	cmd.SysProcAttr = &unix.SysProcAttr{Pdeathsig: unix.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	if !poll(patience, func() bool { return exec.Command("ctr", "--address", socket, "version").Run() == nil }) {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		t.Fatalf("containerd does not serve:\n%s", log.String())
	}
	return socket
}

// What makes no container is refused before anything is built, or undone.
func TestContainersThatAreRefused(t *testing.T) {
	needContainers(t)
	o := newOverlab(t)
	machine := o.watch(t)
	dir := t.TempDir()
	text := filepath.Join(dir, "text.tar")
	if err := os.WriteFile(text, []byte("no archive"), 0o600); err != nil {
		t.Fatal(err)
	}
	empty := filepath.Join(dir, "empty.tar")
	writeImage(t, empty, ociimage.Image{Name: "registry.example/empty:1", Layers: []ociimage.Layer{ociimage.Files()}})
	two := filepath.Join(dir, "two.tar")
	writeImage(t, two,
		ociimage.Image{Name: "registry.example/a:1", Layers: []ociimage.Layer{ociimage.Files(ociimage.File{Path: "/a"})}},
		ociimage.Image{Name: "registry.example/b:1", Layers: []ociimage.Layer{ociimage.Files(ociimage.File{Path: "/b"})}})
	for _, c := range []struct{ name, spec, want string }{
		{"no archive", "image: file:/none.tar", "the image of pod pod-1: open /none.tar: no such file or directory"},
		{"another file", "image: file:" + text, text + " is no archive of an image"},
		{"no containerd", "image: busybox", "docker.io/library/busybox:latest would be read from containerd at /none.sock, and there is none"},
		{"several images", "image: file:" + two, "the archive has several"},
		{"an image without a program", "image: file:" + empty, "the image names no program; write the pod's command"},
		{"a program that is not there", "pods: [{name: p, node: master, command: [/none]}]", `start the program of pod p, ["/none"]`},
	} {
		r := o.run(t, "up", "--containerd-address", "/none.sock", labFile(t, "spec:\n  runtime: containerd\n  "+c.spec+"\n"))
		if r.code != 2 || !strings.Contains(r.err, c.want) {
			t.Errorf("%s: %s; want %s", c.name, r, c.want)
		}
		machine.settles(t, c.name)
	}
}

// Without what it takes, a lab of containers is refused with the mend.
func TestContainersWithoutTheirPrograms(t *testing.T) {
	needLabs(t)
	o := newOverlab(t)
	o.env = append(o.env, "PATH=/none")
	r := o.run(t, "up", labFile(t, "spec: {runtime: containerd}\n"))
	if r.code != 2 {
		t.Error(r)
	}
	if os.Geteuid() != 0 || userns.RunningInUserNS() {
		contains(t, r.err, "spec.runtime: containerd needs root of this machine")
		return
	}
	if _, err := exec.LookPath("/usr/sbin/runc"); err != nil {
		contains(t, r.err, "runc is not in PATH: sudo apt-get install runc")
	}
	contains(t, r.err, "containerd is not in PATH: sudo apt-get install containerd")
}

// A lab of 50 containers comes up, is judged, and goes.
func TestManyContainers(t *testing.T) {
	needContainers(t)
	o := newOverlab(t)
	machine := o.watch(t)
	o.must(t, "up", labFile(t, "spec: {runtime: containerd, nodes: [{name: n, count: 5}], podsPerNode: 10}\n"))
	all := o.inspect(t).Status.Containers
	if len(all) != 50 || slices.ContainsFunc(all, func(c topology.ContainerStatus) bool { return c.State != topology.ContainerRunning }) {
		t.Errorf("%d containers: %+v", len(all), all)
	}
	o.allPass(t, "NM-0[1-6]")
	o.must(t, "down")
	machine.unchanged(t, "after down")
}

// Without busybox the pods' image is overlab's own, and has what it takes to
// look at an overlay.
func TestContainersWithoutBusybox(t *testing.T) {
	needContainers(t)
	o := newOverlab(t)
	dir := t.TempDir() // the PATH: what runs containers, and nothing else
	for _, name := range []string{"containerd", "containerd-shim-runc-v2", "runc"} {
		path, err := exec.LookPath(name)
		if err != nil {
			path = "/usr/sbin/" + name // which an ordinary PATH has not
		}
		if err := os.Symlink(path, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	path := os.Getenv("PATH")
	o.env = append(o.env, "PATH="+dir)
	o.must(t, "up", labFile(t, "spec: {runtime: containerd, podsPerNode: 1, pods: []}\n"))
	o.env = append(o.env, "PATH="+path)
	in := func(argv ...string) string { return o.must(t, append([]string{"exec", "pod-2", "--"}, argv...)...) }
	contains(t, in("ip", "addr"), "2: eth0 inet 10.244.1.2/24 scope universe\n")
	contains(t, in("ip", "route"), "default via 10.244.1.1 dev eth0\n", "10.244.1.0/24 dev eth0 src 10.244.1.2\n")
	contains(t, in("ip", "link"), "eth0: <UP,", "mtu 1450")
	contains(t, in("ping", "-c2", "10.244.2.2"), "from 10.244.2.2: seq=0 ttl=62 time=", "2 packets transmitted, 2 packets received\n")
	contains(t, in("ip", "neigh"), "10.244.1.1 dev eth0 lladdr ")
	in("sleep", "0.01")
	if r := o.run(t, "exec", "pod-2", "--", "ping", "-c1", "10.244.2.99"); r.code != 1 || !strings.Contains(r.err, "1 of 1 requests to 10.244.2.99 had no reply") {
		t.Error("ping of nobody:", r)
	}
	if got, want := o.must(t, "logs", "pod-2"), "pod pod-2 has 10.244.1.2/24\n"; got != want {
		t.Errorf("logs: %q, want %q", got, want)
	}
	if r := o.run(t, "exec", "pod-2", "--", "sh"); r.code != 127 {
		t.Error("sh:", r)
	}
}

// With control groups of version 2 it is the same: the lab makes none.
func TestContainersOnCgroup2(t *testing.T) {
	needContainers(t)
	o := newOverlab(t)
	lab := labFile(t, "spec: {runtime: containerd}\n")
	r := finish(t, o.helper(helperCgroup2, unix.CLONE_NEWNS, 0, program(), "up", lab))
	if r.code == helperFailed {
		t.Skipf("SKIPPED, NOT TESTED: no control groups of version 2 can be mounted: %s", r.err)
	}
	if r.code != 0 {
		t.Fatal(r)
	}
	contains(t, o.must(t, "exec", "pod-3", "--", "ping", "-c1", "10.244.2.2"), "1 packets received")
	all := o.inspect(t).Status.Containers
	for _, c := range all {
		if c.State != topology.ContainerRunning {
			t.Errorf("%+v", c)
		}
		groups, err := os.ReadFile(fmt.Sprintf("/proc/%d/root/proc/%d/cgroup", o.supervisor(), c.PID))
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(string(groups), c.ID) {
			t.Errorf("%s is in control groups of its own:\n%s", c.Pod, groups)
		}
	}
	o.must(t, "down")
}

// Whenever the supervisor of a lab of containers is killed, nothing of it is
// left: no process, mount, file or control group.
func TestKilledSupervisorOfContainers(t *testing.T) {
	needContainers(t)
	o := newOverlab(t)
	machine := o.watch(t)
	within := moments(t)
	lab := labFile(t, "spec: {runtime: containerd}\n")
	o.must(t, "up", lab)
	all := o.inspect(t).Status.Containers
	o.must(t, "down")
	for range 8 {
		cmd, printed := o.start(t, "up", lab)
		poll(patience, func() bool { return o.supervisor() > 0 || cmd.ProcessState != nil })
		delay := within(1200 * time.Millisecond)
		<-time.After(delay)
		if pid := o.supervisor(); pid > 0 {
			if err := unix.Kill(pid, unix.SIGKILL); err != nil && err != unix.ESRCH {
				t.Fatal(err)
			}
		}
		wait(t, cmd)
		when := "supervisor killed after " + delay.String()
		o.clears(t, when)
		machine.settles(t, when+"\n"+printed.String())
		if got := cgroups(t, all); len(got) > 0 {
			t.Errorf("%s: control groups: %s", when, got)
		}
	}
}
