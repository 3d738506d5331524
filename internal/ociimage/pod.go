package ociimage

import (
	"debug/elf"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"slices"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// PodName is the reference of the image that Pod makes.
const PodName = "overlab.local/pod:latest"

// applets are the commands that the image links to busybox: what a person in a
// pod looks around with, and what plays client and server.
var applets = []string{
	"ash", "awk", "cat", "chmod", "clear", "cp", "cut", "date", "dd", "df", "diff", "dmesg", "dnsdomainname", "du", "echo", "env",
	"false", "find", "free", "grep", "head", "hexdump", "hostname", "httpd", "id", "ifconfig", "ip", "kill", "killall", "less", "ln", "ls",
	"mkdir", "more", "mount", "mv", "nc", "netstat", "nslookup", "pgrep", "pidof", "ping", "ping6", "printf", "ps", "pwd", "rm", "rmdir",
	"route", "sed", "seq", "sh", "sleep", "sort", "stat", "stty", "tail", "tar", "tee", "telnet", "test", "tftp", "timeout", "top", "touch",
	"tr", "traceroute", "true", "tty", "uname", "uniq", "uptime", "vi", "watch", "wc", "wget", "which", "whoami", "xargs", "yes",
}

// wait is what a pod of the image runs: it says what the pod is, on standard
// output, and then waits for its end, taking in the orphans that commands in
// the pod leave.
const wait = `echo "pod $HOSTNAME:" $(ip -o addr show dev eth0 scope global | awk '{print $4}')
trap 'exit 0' TERM
while :; do sleep 3600 & wait $!; done`

// ErrNoBusybox says that this machine has no busybox to make an image of.
var ErrNoBusybox = errors.New("no busybox that is linked statically is in PATH: sudo apt-get install busybox-static")

// Pod is the image of a pod for which nobody named one: busybox, and a command
// that waits.
func Pod(busybox string) (Image, error) {
	program, err := os.ReadFile(busybox)
	if err != nil {
		return Image{}, fmt.Errorf("make the image of pods: %w", err)
	}
	files := []File{
		{Path: "/bin/busybox", Mode: 0o755, Data: program},
		{Path: "/etc/passwd", Mode: 0o644, Data: []byte("root:x:0:0:root:/root:/bin/sh\n")},
		{Path: "/etc/group", Mode: 0o644, Data: []byte("root:x:0:\n")},
		{Path: "/root/.profile", Mode: 0o644, Data: []byte("PS1='root@\\h:\\w# '\n")},
	}
	for _, a := range applets {
		files = append(files, File{Path: "/bin/" + a, Target: "busybox"})
	}
	return Image{
		Name:         PodName,
		Architecture: runtime.GOARCH,
		Files:        files,
		Config: ocispec.ImageConfig{
			Env: []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "ENV=/root/.profile"},
			Cmd: []string{"/bin/sh", "-c", wait},
		},
	}, nil
}

// FindBusybox finds a busybox that needs no library; ErrNoBusybox if there is
// none.
func FindBusybox() (string, error) {
	for _, name := range []string{"busybox", "busybox.static", "busybox-static"} {
		if path, err := exec.LookPath(name); err == nil && static(path) {
			return path, nil
		}
	}
	return "", ErrNoBusybox
}

// static reports whether a program asks for no interpreter, which would load
// its libraries.
func static(path string) bool {
	f, err := elf.Open(path)
	if err != nil {
		return false
	}
	defer f.Close()
	return !slices.ContainsFunc(f.Progs, func(p *elf.Prog) bool { return p.Type == elf.PT_INTERP })
}
