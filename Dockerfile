# overlab with the tools that its exercises use, in Debian:
#
#   make image
#   docker run --rm --privileged ghcr.io/overlab/overlab up --test
#
# The programs are static, and come from bin/ as `make build` leaves them.
FROM debian:trixie-slim
RUN apt-get update && apt-get install -y --no-install-recommends \
      bridge-utils ca-certificates ethtool iproute2 iptables iputils-ping \
      net-tools nftables procps tcpdump traceroute \
    && rm -rf /var/lib/apt/lists/*
COPY bin/overlab bin/overlabd bin/overlab-cni /usr/local/bin/
ENTRYPOINT ["overlab"]
CMD ["up", "--test"]
