package datapath

import (
	"testing"

	"golang.org/x/sys/unix"

	"github.com/overlab/overlab/internal/nstest"
	"github.com/overlab/overlab/internal/rtnl"
)

// TestMakes: the kernel's answer is right, and the question makes nothing.
func TestMakes(t *testing.T) {
	err := nstest.New(t).Do(func() error {
		changes, err := rtnl.Listen(unix.RTNLGRP_LINK)
		if err != nil {
			return err
		}
		defer changes.Close() // nothing is left in it
		for kind, want := range map[string]bool{"vxlan": true, "bridge": true, "nosuchkind": false} {
			if got := Makes(kind); got != want {
				t.Errorf("%s: %t", kind, got)
			}
		}
		return changes.Drain(func(rtnl.Message) error {
			t.Error("a device was made, or altered")
			return nil
		})
	})
	if err != nil {
		t.Fatal(err)
	}
}
