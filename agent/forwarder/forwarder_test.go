package forwarder_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/overlab/overlab/agent/forwarder"
	"github.com/overlab/overlab/internal/netns"
	"github.com/overlab/overlab/internal/nstest"
	"github.com/overlab/overlab/internal/tuntap"
	"github.com/overlab/overlab/internal/tuntap/tuntest"
)

// TestMain: as a forwarder, the test binary has an engine that notes what it is
// told in the file that its options name.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == forwarder.Command {
		ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
		defer stop()
		log := slog.New(slog.NewTextHandler(os.Stderr, nil))
		err := forwarder.Main(ctx, os.Args[2:], map[string]forwarder.NewEngine{"note": newNote}, log)
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	nstest.Main(m)
}

// note is an Engine that moves nothing.
type note struct {
	device *os.File
	file   string
}

type noteOptions struct{ File, Other string }

func newNote(device int, options json.RawMessage, _ *slog.Logger) (forwarder.Engine, error) {
	var o noteOptions
	if err := json.Unmarshal(options, &o); err != nil {
		return nil, errors.Join(err, unix.Close(device))
	}
	return &note{device: os.NewFile(uintptr(device), "tun"), file: o.File}, nil
}

func (n *note) Update(peers json.RawMessage) error {
	if string(peers) == `"bad"` {
		return errors.New("these peers are bad")
	}
	return os.WriteFile(n.file, fmt.Appendf(nil, "%d %s", os.Getpid(), peers), 0o600)
}

func (n *note) Run() error {
	_, err := io.Copy(io.Discard, n.device)
	if errors.Is(err, os.ErrClosed) {
		return nil
	}
	return err
}

func (n *note) Close() error { return n.device.Close() }

// bed is where a test's forwarders are: the folder of their sockets.
type bed struct {
	testing.TB
	launcher forwarder.Launcher
	set      *netns.Set
}

// inBed calls fn in a namespace with a TUN device, and ends all forwarders.
func inBed(t *testing.T, fn func(b *bed)) {
	t.Helper()
	tuntest.Require(t)
	set := nstest.New(t)
	err := set.Do(func() error {
		log := slog.New(slog.NewTextHandler(t.Output(), nil))
		b := &bed{t, forwarder.Launcher{Folder: filepath.Join(t.TempDir(), "run"), Log: log}, set}
		if err := tuntap.Create("tun7"); err != nil {
			return err
		}
		defer func() {
			if err := forwarder.EndAll(b.launcher.Folder, b.launcher.Log); err != nil {
				t.Error(err)
			}
		}()
		fn(b)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// client returns one whose forwarder notes what it is told in the file.
func (b *bed) client(other string) (c *forwarder.Client, file string) {
	b.Helper()
	file = filepath.Join(b.launcher.Folder, "note")
	c, err := b.launcher.NewClient("note", "tun7", noteOptions{File: file, Other: other})
	if err != nil {
		b.Fatal(err)
	}
	return c, file
}

// update returns the process that was told.
func (b *bed) update(c *forwarder.Client, file, peers string) (pid int) {
	b.Helper()
	if err := c.Update(b.Context(), peers); err != nil {
		b.Fatal(err)
	}
	raw, err := os.ReadFile(file)
	if err != nil {
		b.Fatal(err)
	}
	var noted string
	if _, err := fmt.Sscanf(string(raw), "%d %q", &pid, &noted); err != nil || noted != peers {
		b.Fatalf("the forwarder noted %s (%v)", raw, err)
	}
	return pid
}

// wait polls.
func (b *bed) wait(what string, ok func() bool) {
	b.Helper()
	deadline := time.After(10 * time.Second)
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-deadline:
			b.Fatal("not within 10 s: " + what)
		}
	}
}

// gone: a zombie counts, since its parent may be another's test.
func gone(pid int) bool {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	return err != nil || strings.Contains(string(raw), ") Z ")
}

// TestFound: a second agent finds the first one's forwarder, and tells it.
func TestFound(t *testing.T) {
	inBed(t, func(b *bed) {
		first, file := b.client("")
		pid := b.update(first, file, "one")
		if again := b.update(first, file, "two"); again != pid {
			t.Error("another process was told the second time")
		}
		second, _ := b.client("")
		if again := b.update(second, file, "three"); again != pid {
			t.Error("the second agent has started another process")
		}
		if err := second.Update(t.Context(), "bad"); err == nil || !strings.Contains(err.Error(), "these peers are bad") {
			t.Errorf("refused peers: %v", err)
		}
		if again := b.update(second, file, "four"); again != pid {
			t.Error("a refusal has cost the forwarder")
		}
	})
}

// TestReplaced: a forwarder of other options is ended before its successor
// attaches to the device.
func TestReplaced(t *testing.T) {
	inBed(t, func(b *bed) {
		first, file := b.client("a")
		pid := b.update(first, file, "one")
		second, _ := b.client("b")
		if again := b.update(second, file, "two"); again == pid {
			t.Error("the process has not changed")
		}
		b.wait("the first ends", func() bool { return gone(pid) })
		b.wait("the first agent knows", func() bool { return len(first.Lost()) == 1 })
	})
}

// TestLost: one that is killed is missed, and started again; so is one whose
// device was deleted.
func TestLost(t *testing.T) {
	inBed(t, func(b *bed) {
		c, file := b.client("")
		pid := b.update(c, file, "one")
		for name, do := range map[string]func() error{
			"killed": func() error { return unix.Kill(pid, unix.SIGKILL) },
			"device deleted": func() error {
				return errors.Join(exec.Command("ip", "link", "del", "tun7").Run(), tuntap.Create("tun7"))
			},
		} {
			if err := do(); err != nil {
				t.Fatal(err)
			}
			b.wait(name+": its loss is known", func() bool { return len(c.Lost()) == 1 })
			<-c.Lost()
			again := b.update(c, file, "two")
			if again == pid {
				t.Error(name + ": the process has not changed")
			}
			pid = again
		}
	})
}

// TestWaits: the device may come after the forwarder.
func TestWaits(t *testing.T) {
	inBed(t, func(b *bed) {
		c, file := b.client("")
		if err := exec.Command("ip", "link", "del", "tun7").Run(); err != nil {
			t.Fatal(err)
		}
		updated := make(chan error, 1)
		go func() { updated <- b.set.Do(func() error { return c.Update(t.Context(), "one") }) }()
		b.wait("the forwarder listens", func() bool {
			_, err := os.Stat(filepath.Join(b.launcher.Folder, "tun7.sock"))
			return err == nil
		})
		if err := tuntap.Create("tun7"); err != nil {
			t.Fatal(err)
		}
		if err := <-updated; err != nil {
			t.Fatal(err)
		}
		b.update(c, file, "two")
	})
}

// TestLingersNot: a forwarder that no agent can find ends.
func TestLingersNot(t *testing.T) {
	inBed(t, func(b *bed) {
		c, file := b.client("")
		pid := b.update(c, file, "one")
		if err := os.Remove(filepath.Join(b.launcher.Folder, "tun7.sock")); err != nil {
			t.Fatal(err)
		}
		b.wait("it ends", func() bool { return gone(pid) })
	})
}

// TestEndAll: what is left of a killed forwarder goes, too.
func TestEndAll(t *testing.T) {
	inBed(t, func(b *bed) {
		c, file := b.client("")
		pid := b.update(c, file, "one")
		if err := forwarder.EndAll(b.launcher.Folder, b.launcher.Log); err != nil {
			t.Fatal(err)
		}
		b.wait("it ends", func() bool { return gone(pid) })
		<-c.Lost()
		pid = b.update(c, file, "two")
		if err := unix.Kill(pid, unix.SIGKILL); err != nil {
			t.Fatal(err)
		}
		<-c.Lost()
		if err := forwarder.EndAll(b.launcher.Folder, b.launcher.Log); err != nil {
			t.Fatal(err)
		}
		if left, _ := filepath.Glob(filepath.Join(b.launcher.Folder, "*.sock")); len(left) > 0 {
			t.Errorf("left behind: %v", left)
		}
		if err := forwarder.EndAll(filepath.Join(b.launcher.Folder, "none"), b.launcher.Log); err != nil {
			t.Errorf("no folder: %v", err)
		}
	})
}

func TestArguments(t *testing.T) {
	engines := map[string]forwarder.NewEngine{"note": newNote}
	for args, want := range map[string]string{
		"":                            "the agent starts forwarders by itself",
		"note":                        "--device, --socket and --options are needed",
		"other --device=a --socket=b": "there is no forwarder of the kind \"other\", but note",
		"note --colour=red":           "colour",
	} {
		err := forwarder.Main(t.Context(), strings.Fields(args), engines, slog.New(slog.DiscardHandler))
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, not %q", args, err, want)
		}
	}
}
