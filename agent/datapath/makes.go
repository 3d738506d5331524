package datapath

import (
	"errors"

	"golang.org/x/sys/unix"

	"github.com/overlab/overlab/internal/rtnl"
)

// Makes reports whether the running kernel makes devices of a kind that needs
// nothing but a name. It makes none itself, but asks for one that the kernel
// refuses, as only that loads the driver's module. Where it cannot tell it
// answers true: whoever then makes the device is told why not.
func Makes(kind string) bool {
	conn, err := rtnl.Dial()
	if err != nil {
		return true
	}
	defer conn.Close() // nothing is left in it
	var b rtnl.Batch
	b.TryKind(kind)
	return !errors.Is(conn.Do(&b), unix.EOPNOTSUPP)
}
