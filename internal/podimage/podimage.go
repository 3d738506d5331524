// Package podimage makes the container image of pods for which nobody named
// one, of a busybox that this machine has, or else of overlab itself.
package podimage

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/overlab/overlab/internal/ociimage"
	"github.com/overlab/overlab/internal/wholefile"
)

// Name is the image's reference.
const Name = "overlab.local/pod:latest"

// applets are the commands that the image links to busybox: what a person in a
// pod looks around with, and what plays client and server.
var applets = []string{
	"arping", "ash", "awk", "base64", "basename", "cat", "chmod", "clear", "cp", "cut", "date", "dd", "df", "diff", "dirname", "dmesg", "dnsdomainname", "du", "echo", "env",
	"expr", "false", "find", "free", "grep", "head", "hexdump", "hostname", "httpd", "id", "ifconfig", "ip", "kill", "killall", "less", "ln", "ls",
	"mkdir", "mktemp", "more", "mount", "mv", "nc", "netstat", "nslookup", "pgrep", "pidof", "ping", "ping6", "printf", "ps", "pwd", "readlink", "realpath", "rm", "rmdir",
	"route", "sed", "seq", "sh", "sleep", "sort", "stat", "stty", "tail", "tar", "tee", "telnet", "test", "tftp", "timeout", "top", "touch",
	"tr", "traceroute", "true", "tty", "uname", "uniq", "uptime", "vi", "watch", "wc", "wget", "which", "whoami", "xargs", "yes",
}

// wait is what a pod of busybox runs: it says what the pod is, and then waits
// for its end, taking in the orphans that commands in the pod leave.
const wait = `echo "pod $HOSTNAME has" $(ip -o addr show dev eth0 scope global | awk '{print $4}')
trap 'exit 0' TERM
while :; do sleep 3600 & wait $!; done`

// Tools are the names that overlab answers to in an image without busybox (see
// podtools).
var Tools = []string{"ip", "pause", "ping", "sleep"}

// self is the running program, which is overlab.
const self = "/proc/self/exe"

// A Program is the one program of the image.
type Program struct {
	// File is its path on this machine.
	File string
	// Overlab says that it is overlab and not busybox.
	Overlab bool
}

// Find finds a busybox that needs no library in the folders of path, or else
// takes the running program, which is overlab.
func Find(path string) (Program, error) {
	for _, dir := range filepath.SplitList(path) {
		for _, name := range []string{"busybox", "busybox.static", "busybox-static"} {
			if file := filepath.Join(dir, name); static(file) {
				return Program{File: file}, nil
			}
		}
	}
	if !static(self) {
		return Program{}, errors.New("the pods' image needs a program that is linked statically, and this overlab is not: build it with CGO_ENABLED=0, or sudo apt-get install busybox-static")
	}
	return Program{File: self, Overlab: true}, nil
}

// String names the program.
func (p Program) String() string {
	if p.Overlab {
		return "overlab itself"
	}
	return p.File
}

// parts are the names of the program in the image, and what the image runs.
func (p Program) parts() (name string, names, command []string) {
	if p.Overlab {
		return "overlab", Tools, []string{"/bin/pause"}
	}
	return "busybox", applets, []string{"/bin/sh", "-c", wait}
}

// Write writes the image as an archive (see ociimage.Write). The same program
// gives the same image.
func Write(w io.Writer, p Program) error {
	name, names, command := p.parts()
	files := []ociimage.File{
		{Path: "/bin/" + name, Mode: 0o755, Source: p.File},
		{Path: "/etc/group", Mode: 0o644, Content: []byte("root:x:0:\n")},
		{Path: "/etc/passwd", Mode: 0o644, Content: []byte("root:x:0:0:root:/root:/bin/sh\n")},
		{Path: "/root/.keep", Mode: 0o644}, // a folder of a layer holds something
		{Path: "/tmp/.keep", Mode: 0o644},
	}
	for _, n := range names {
		files = append(files, ociimage.File{Path: "/bin/" + n, Link: name})
	}
	return ociimage.Write(w, ociimage.Image{
		Name:   Name,
		Layers: []ociimage.Layer{ociimage.Files(files...)},
		Config: v1.ImageConfig{
			Env: []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root"},
			Cmd: command,
		},
	})
}

// WriteFile writes the archive to a file, whole or not at all.
func WriteFile(file string, p Program) error {
	if err := wholefile.Write(file, 0o644, func(f *os.File) error { return Write(f, p) }); err != nil {
		return fmt.Errorf("write the pods' image: %w", err)
	}
	return nil
}

// static reports whether a file is a program that runs without any library.
func static(file string) bool {
	is, err := ociimage.Static(file)
	return err == nil && is
}
