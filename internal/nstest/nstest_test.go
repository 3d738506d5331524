package nstest_test

import (
	"net"
	"os"
	"testing"

	"github.com/overlab/overlab/internal/nstest"
)

func TestMain(m *testing.M) { nstest.Main(m) }

func TestInsideThereIsOnlyLoopback(t *testing.T) {
	nstest.Require(t)
	links, err := net.Interfaces()
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range links {
		if l.Flags&net.FlagUp != 0 && l.Name != "lo" {
			t.Errorf("%s is up inside: the tests can reach the machine's network", l.Name)
		}
	}
	if entries, err := os.ReadDir("/run"); err != nil || len(entries) > 0 {
		t.Errorf("/run holds %v (%v), not nothing", entries, err)
	}
}

func TestNew(t *testing.T) {
	err := nstest.New(t).Do(func() error {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return err
		}
		return ln.Close()
	})
	if err != nil {
		t.Error("loopback in a new namespace:", err)
	}
}
