#include "server/server.h"

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <memory>
#include <string>
#include <vector>

#include "binding/bind.h"
#include "binding/server_handle.h"
#include "server/embedded_cluster.h"

namespace py = pybind11;

namespace fastps {
namespace {

std::unique_ptr<Server> MakeServer(const py::bytes& boot_id, const std::string& bind,
                                   uint32_t data_threads) {
  const ZmqRuntime& runtime = LoadedRuntime();
  const BootId id = BootIdOfBytes(boot_id);
  Status status;
  std::unique_ptr<Server> server;
  {
    py::gil_scoped_release release;
    server = Server::Create(runtime, id, bind, data_threads, &status);
  }
  ThrowUnlessOk(status);
  return server;
}

void StartServer(ServerHandle& handle, uint32_t id, const py::bytes& map_blob,
                 const std::string& scheduler, uint64_t heard) {
  std::shared_ptr<const ClusterMap> map = MapOfBlob(map_blob);
  Status status;
  {
    Server& server = handle.open();
    py::gil_scoped_release release;
    status = server.Start(ServerId(id), std::move(map), scheduler, heard);
  }
  ThrowUnlessOk(status);
}

py::dict ServerStats(ServerHandle& handle) {
  Server& server = handle.open();
  py::dict stats;
  stats["rows"] = server.handler().n_rows();
  stats["requests"] = server.handler().n_requests();
  stats["refused_messages"] = server.n_refused();
  stats["map_version"] = server.handler().map_version().value;
  return stats;
}

}  // namespace

void BindServer(py::module_& m) {
  py::class_<ServerHandle>(m, "Server")
      .def(py::init([](const py::bytes& boot_id, const std::string& bind, uint32_t data_threads) {
             return ServerHandle{MakeServer(boot_id, bind, data_threads)};
           }),
           py::arg("boot_id"), py::arg("bind") = "tcp://127.0.0.1:*", py::arg("data_threads") = 1)
      .def_property_readonly("endpoints",
                             [](const ServerHandle& handle) { return handle.open().endpoints(); })
      .def_property_readonly(
          "chain_endpoints",
          [](const ServerHandle& handle) { return handle.open().chain_endpoints(); })
      .def("start", &StartServer, py::arg("server_id"), py::arg("map_blob"), py::arg("scheduler"),
           py::arg("heard"))
      .def("stats", &ServerStats)
      .def("stop", &ServerHandle::Stop);

  py::class_<EmbeddedCluster, std::shared_ptr<EmbeddedCluster>>(m, "EmbeddedCluster")
      .def(py::init([](const std::vector<py::bytes>& boot_ids) {
             std::vector<BootId> ids;
             for (const py::bytes& boot_id : boot_ids) ids.push_back(BootIdOfBytes(boot_id));
             return std::make_shared<EmbeddedCluster>(ids);
           }),
           py::arg("boot_ids"))
      .def(
          "install_map",
          [](EmbeddedCluster& cluster, const py::bytes& map_blob) {
            std::shared_ptr<const ClusterMap> map = MapOfBlob(map_blob);
            Status status;
            {
              py::gil_scoped_release release;
              status = cluster.InstallMap(std::move(map));
            }
            ThrowUnlessOk(status);
          },
          py::arg("map_blob"))
      .def(
          "close_rounds",
          [](EmbeddedCluster& cluster, const py::bytes& frame) {
            const std::string_view view = frame;
            const auto notice = DecodeRoundsNotice(std::as_bytes(std::span(view)));
            if (!notice) ThrowNamed("WireError", "not a frame of closed rounds");
            py::gil_scoped_release release;
            cluster.CloseRounds(*notice);
          },
          py::arg("frame"));
}

}  // namespace fastps
