package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"strconv"
	"time"
)

// checkTimeout bounds how long /readyz waits for a loop that is at work.
const checkTimeout = 2 * time.Second

// serveHealth serves /healthz and /readyz with flannel's texts, and /metrics.
// /readyz answers 200 only when check finds nothing, and says otherwise what
// is missing, one line each.
func serveHealth(address string, port int, check func(context.Context) error, metrics http.Handler, log *slog.Logger) (stop func(), err error) {
	mux := http.NewServeMux()
	mux.HandleFunc("/healthz", func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprint(w, "flanneld is running")
	})
	mux.HandleFunc("/readyz", func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithTimeout(r.Context(), checkTimeout)
		defer cancel()
		if err := check(ctx); err != nil {
			w.WriteHeader(http.StatusServiceUnavailable)
			fmt.Fprintf(w, "flanneld is not ready yet\n%v\n", err)
			return
		}
		fmt.Fprint(w, "flanneld is ready")
	})
	mux.Handle("/metrics", metrics)
	listener, err := net.Listen("tcp", net.JoinHostPort(address, strconv.Itoa(port)))
	if err != nil {
		return nil, fmt.Errorf("serve health at --healthz-ip=%s --healthz-port=%d: %w", address, port, err)
	}
	server := &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second}
	go func() {
		if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
			log.Error("the health server ended", "err", err)
		}
	}()
	return func() { _ = server.Close() }, nil // nothing is left in it
}
