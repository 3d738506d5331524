package netns_test

import (
	"context"
	"errors"
	"net"
	"os"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/overlab/overlab/internal/netns"
	"github.com/overlab/overlab/internal/nstest"
)

func TestMain(m *testing.M) { nstest.Main(m) }

func current(t *testing.T, kind string) string {
	t.Helper()
	id, err := os.Readlink("/proc/thread-self/ns/" + kind)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// What Do enters is what Create made, and no thread of the scheduler is left
// in it.
func TestDoEntersAndNothingStays(t *testing.T) {
	nstest.Require(t)
	var made string
	set, err := netns.Create(unix.CLONE_NEWNET|unix.CLONE_NEWUTS, func() error {
		made = current(t, "net")
		return unix.Sethostname([]byte("inside"))
	})
	if err != nil {
		t.Fatal(err)
	}
	defer set.Close()
	outside := current(t, "net")
	if made == outside {
		t.Fatal("Create ran its function outside")
	}
	for range 20 {
		err := set.Do(func() error {
			if got := current(t, "net"); got != made {
				t.Errorf("Do ran in %s, want %s", got, made)
			}
			if name, err := os.Hostname(); err != nil || name != "inside" {
				t.Errorf("the host name is %q (%v)", name, err)
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	for range 4 * runtime.GOMAXPROCS(0) {
		done := make(chan string)
		go func() {
			runtime.LockOSThread()
			defer runtime.UnlockOSThread()
			done <- current(t, "net")
		}()
		if got := <-done; got != outside {
			t.Fatalf("a goroutine runs in %s, want %s", got, outside)
		}
	}
}

func TestErrorsComeBack(t *testing.T) {
	nstest.Require(t)
	want := errors.New("no")
	if _, err := netns.Create(unix.CLONE_NEWNET, func() error { return want }); !errors.Is(err, want) {
		t.Errorf("Create: %v", err)
	}
	if err := netns.Thread(func() error { return want }); !errors.Is(err, want) {
		t.Errorf("Thread: %v", err)
	}
	if err := netns.Thread(func() error { runtime.Goexit(); return nil }); err == nil {
		t.Error("a function that ended its goroutine gave no error")
	}
	if _, err := netns.Open("/nowhere", "", ""); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("Open: %v", err)
	}
}

// A connection that is dialled inside stays inside.
func TestDial(t *testing.T) {
	set := nstest.New(t)
	var l net.Listener
	err := set.Do(func() error {
		var err error
		l, err = net.Listen("tcp", "127.0.0.1:0")
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	c, err := set.Dial(context.Background(), "tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	c.Close()
	if c, err := net.Dial("tcp", l.Addr().String()); err == nil {
		c.Close()
		t.Error("the listener is reachable from outside")
	}
}
