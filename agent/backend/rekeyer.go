package backend

import "github.com/overlab/overlab/agent/datapath"

// Rekeyer is what a Backend also is that makes keys of its lease data, and must
// never use one a second time for packets that are counted from the start.
type Rekeyer interface {
	// Rekey is called before the kernel is programmed, with what Desired wants
	// and what there is. Changed says that Data is now another: the lease is
	// written anew, and Desired and Rekey are called again. An error keeps the
	// kernel from being programmed.
	Rekey(want, have datapath.State) (changed bool, err error)
}
