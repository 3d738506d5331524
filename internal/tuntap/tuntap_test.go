package tuntap_test

import (
	"errors"
	"fmt"
	"net"
	"os/exec"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/overlab/overlab/internal/nstest"
	"github.com/overlab/overlab/internal/tuntap"
	"github.com/overlab/overlab/internal/tuntap/tuntest"
)

func TestMain(m *testing.M) { nstest.Main(m) }

// TestAttach: the device is there before and after whoever is attached to it,
// and only one can be.
func TestAttach(t *testing.T) {
	tuntest.Require(t)
	err := nstest.New(t).Do(func() error {
		if _, err := tuntap.Attach("tun7"); !errors.Is(err, tuntap.ErrNoDevice) {
			t.Errorf("without a device: %v", err)
		}
		if _, err := net.InterfaceByName("tun7"); err == nil {
			t.Error("attaching has made a device")
		}
		for range 2 { // the second finds it there
			if err := tuntap.Create("tun7"); err != nil {
				return err
			}
		}
		fd, err := tuntap.Attach("tun7")
		if err != nil {
			return err
		}
		if _, err := tuntap.Attach("tun7"); !errors.Is(err, tuntap.ErrBusy) {
			t.Errorf("attached twice: %v", err)
		}
		if err := unix.Close(fd); err != nil {
			return err
		}
		out, err := exec.Command("ip", "-d", "link", "show", "tun7").CombinedOutput()
		if err != nil || !strings.Contains(string(out), "tun type tun pi off") || !strings.Contains(string(out), "persist on") {
			t.Errorf("%v\n%s", err, out)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// TestCreateWhileOthersFork: a process that is started while a device is made
// does not keep its maker from it.
func TestCreateWhileOthersFork(t *testing.T) {
	tuntest.Require(t)
	done := make(chan struct{})
	var forks sync.WaitGroup
	for range 4 {
		forks.Go(func() {
			for {
				select {
				case <-done:
					return
				default:
					if err := exec.Command("true").Run(); err != nil {
						t.Error(err)
						return
					}
				}
			}
		})
	}
	err := nstest.New(t).Do(func() error {
		for i := range 100 {
			name := fmt.Sprintf("tun%d", i)
			if err := tuntap.Create(name); err != nil {
				return err
			}
			fd, err := tuntap.Attach(name)
			if err != nil {
				return err
			}
			if err := unix.Close(fd); err != nil {
				return err
			}
		}
		return nil
	})
	close(done)
	forks.Wait()
	if err != nil {
		t.Error(err)
	}
}

// TestUsable: where the driver cannot be had, the mend is named.
func TestUsable(t *testing.T) {
	nstest.Require(t)
	err := tuntap.Usable()
	if err == nil {
		if err := unix.Mount("tmpfs", "/dev", "tmpfs", 0, ""); err != nil {
			t.Fatal(err)
		}
		err = tuntap.Usable()
		if err := unix.Unmount("/dev", 0); err != nil {
			t.Fatal(err)
		}
	}
	if err == nil || !strings.Contains(err.Error(), "modprobe tun") && !strings.Contains(err.Error(), "chmod 666 /dev/net/tun") {
		t.Errorf("the error names no mend: %v", err)
	}
}
