package datapath

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/overlab/overlab/internal/rtnl"
)

// Makes reports whether the running kernel makes devices of a kind that needs
// nothing but a name. It tries, in the calling thread's network namespace, as
// only that loads the driver's module. Where it cannot tell it answers true:
// whoever then makes the device is told why not.
func Makes(kind string) bool {
	conn, err := rtnl.Dial()
	if err != nil {
		return true
	}
	defer conn.Close() // nothing is left in it
	name := fmt.Sprintf("probe%d", os.Getpid())
	var b rtnl.Batch
	b.AddKind(rtnl.Link{Name: name}, kind)
	if err := conn.Do(&b); err != nil {
		return !errors.Is(err, unix.EOPNOTSUPP)
	}
	link, err := conn.LinkByName(name)
	if err == nil {
		b.DelLink(link.Index)
		_ = conn.Do(&b) // somebody else was quicker
	}
	return true
}
