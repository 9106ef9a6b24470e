// libpenstock_rdma.so: UCX for the client, which loads it when a read can go by RDMA (own_rdma.h).
#include "client/session/own_rdma.h"

extern "C" int penstock_open_rdma(penstock::RdmaReader** reader, std::string* why) {
  absl::StatusOr<std::unique_ptr<penstock::RdmaReader>> opened = penstock::OpenRdmaReader();
  if (opened.ok()) {
    *reader = opened->release();
  } else {
    *why = std::string(opened.status().message());
  }
  return static_cast<int>(opened.status().code());
}
