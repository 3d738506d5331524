// Overlabd is the node agent of an overlay, with flanneld's flags: either fits
// where the other ran.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"github.com/overlab/overlab/agent/daemon"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	code := daemon.Run(ctx, os.Args[1:], os.Stdout, os.Stderr, os.Environ())
	stop()
	os.Exit(code)
}
