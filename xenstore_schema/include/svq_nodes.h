/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Names of XenStore nodes, the numbers that they may hold, and the states of XenBus.
 * Generated from nodes.yaml by `python -m xenstore_schema.generate`; do not edit.
 *
 * SVQ_NODE_<directory>_<node>  name below its directory; %u stands for the queue, then the page
 * SVQ_PATH_<directory>         path of the directory; %u stands for each id named beside it
 * SVQ_MIN_, SVQ_MAX_, SVQ_BYTES_MAX_, SVQ_DEFAULT_, SVQ_CHOICE_...: what it may hold
 */
#ifndef SVQ_NODES_H
#define SVQ_NODES_H

#define SVQ_PROTOCOL_VERSION 1

/* Room for any node's name below its directory, its end included. */
#define SVQ_NODE_NAME_SIZE 38

/* XenBus states (Xen public headers, io/xenbus.h). */
#define SVQ_STATE_UNKNOWN 0
#define SVQ_STATE_INITIALISING 1
#define SVQ_STATE_INIT_WAIT 2
#define SVQ_STATE_INITIALISED 3
#define SVQ_STATE_CONNECTED 4
#define SVQ_STATE_CLOSING 5
#define SVQ_STATE_CLOSED 6
#define SVQ_STATE_RECONFIGURING 7
#define SVQ_STATE_RECONFIGURED 8

/* Leg 1, the mediator's side. Ids of the path: mediator, frontend, device. */
#define SVQ_PATH_VIRTIO_BACK "/local/domain/%u/backend/virtio/%u/%u"
#define SVQ_NODE_VIRTIO_BACK_FRONTEND "frontend"
#define SVQ_NODE_VIRTIO_BACK_FRONTEND_ID "frontend-id"
#define SVQ_MAX_VIRTIO_BACK_FRONTEND_ID 32751
#define SVQ_NODE_VIRTIO_BACK_ONLINE "online"
#define SVQ_DEFAULT_VIRTIO_BACK_ONLINE 1
#define SVQ_NODE_VIRTIO_BACK_STATE "state"
#define SVQ_NODE_VIRTIO_BACK_SVQ_HANDLE "svq-handle"
#define SVQ_NODE_VIRTIO_BACK_FRONTEND_MEMORY "frontend-memory"
#define SVQ_MIN_VIRTIO_BACK_FRONTEND_MEMORY 4ULL
#define SVQ_NODE_VIRTIO_BACK_PLACEMENT "placement"
#define SVQ_CHOICE_VIRTIO_BACK_PLACEMENT_EXACT "exact"
#define SVQ_CHOICE_VIRTIO_BACK_PLACEMENT_PAGE "page"
#define SVQ_CHOICE_VIRTIO_BACK_PLACEMENT_COPY "copy"
#define SVQ_NODE_VIRTIO_BACK_COPY_THRESHOLD "copy-threshold"
#define SVQ_MAX_VIRTIO_BACK_COPY_THRESHOLD 8192U
#define SVQ_NODE_VIRTIO_BACK_VERSION "version"
#define SVQ_MIN_VIRTIO_BACK_VERSION 1
#define SVQ_NODE_VIRTIO_BACK_DEVICE_TYPE "device-type"
#define SVQ_MIN_VIRTIO_BACK_DEVICE_TYPE 1
#define SVQ_MAX_VIRTIO_BACK_DEVICE_TYPE 63
#define SVQ_NODE_VIRTIO_BACK_FEATURES "features"
#define SVQ_NODE_VIRTIO_BACK_CONFIG "config"
#define SVQ_BYTES_MAX_VIRTIO_BACK_CONFIG 256
#define SVQ_NODE_VIRTIO_BACK_CONFIG_GENERATION "config-generation"
#define SVQ_NODE_VIRTIO_BACK_NUM_QUEUES "num-queues"
#define SVQ_MIN_VIRTIO_BACK_NUM_QUEUES 1
#define SVQ_MAX_VIRTIO_BACK_NUM_QUEUES 64
#define SVQ_NODE_VIRTIO_BACK_QUEUE_SIZE_MAX "queue-size-max"
#define SVQ_MIN_VIRTIO_BACK_QUEUE_SIZE_MAX 1
#define SVQ_MAX_VIRTIO_BACK_QUEUE_SIZE_MAX 1024
#define SVQ_NODE_VIRTIO_BACK_NEEDS_RESET "needs-reset"
#define SVQ_DEFAULT_VIRTIO_BACK_NEEDS_RESET 0
#define SVQ_NODE_VIRTIO_BACK_ERROR "error"
#define SVQ_BYTES_MAX_VIRTIO_BACK_ERROR 1024
#define SVQ_NODE_VIRTIO_BACK_QUEUE_RESET_DONE "queue-%u/reset-done"
#define SVQ_DEFAULT_VIRTIO_BACK_QUEUE_RESET_DONE 0U
#define SVQ_NODE_VIRTIO_BACK_STATS "stats"
#define SVQ_BYTES_MAX_VIRTIO_BACK_STATS 3072
#define SVQ_NODE_VIRTIO_BACK_STATS_REQUEST "stats-request"

/* Leg 1, the frontend's side. Ids of the path: frontend, device. */
#define SVQ_PATH_VIRTIO_FRONT "/local/domain/%u/device/virtio/%u"
#define SVQ_NODE_VIRTIO_FRONT_BACKEND "backend"
#define SVQ_NODE_VIRTIO_FRONT_BACKEND_ID "backend-id"
#define SVQ_MAX_VIRTIO_FRONT_BACKEND_ID 32751
#define SVQ_NODE_VIRTIO_FRONT_STATE "state"
#define SVQ_NODE_VIRTIO_FRONT_FEATURES_ACCEPTED "features-accepted"
#define SVQ_NODE_VIRTIO_FRONT_NUM_QUEUES "num-queues"
#define SVQ_MIN_VIRTIO_FRONT_NUM_QUEUES 1
#define SVQ_MAX_VIRTIO_FRONT_NUM_QUEUES 64
#define SVQ_NODE_VIRTIO_FRONT_QUEUE_SIZE "queue-%u/size"
#define SVQ_MIN_VIRTIO_FRONT_QUEUE_SIZE 1
#define SVQ_MAX_VIRTIO_FRONT_QUEUE_SIZE 1024
#define SVQ_NODE_VIRTIO_FRONT_QUEUE_DESC "queue-%u/desc"
#define SVQ_NODE_VIRTIO_FRONT_QUEUE_AVAIL "queue-%u/avail"
#define SVQ_NODE_VIRTIO_FRONT_QUEUE_USED "queue-%u/used"
#define SVQ_NODE_VIRTIO_FRONT_QUEUE_EVENT_CHANNEL "queue-%u/event-channel"
#define SVQ_MIN_VIRTIO_FRONT_QUEUE_EVENT_CHANNEL 1U
#define SVQ_NODE_VIRTIO_FRONT_QUEUE_RESET "queue-%u/reset"
#define SVQ_DEFAULT_VIRTIO_FRONT_QUEUE_RESET 0U
#define SVQ_NODE_VIRTIO_FRONT_QUEUE_ENABLE "queue-%u/enable"
#define SVQ_DEFAULT_VIRTIO_FRONT_QUEUE_ENABLE 0U
#define SVQ_NODE_VIRTIO_FRONT_STATUS "status"
#define SVQ_DEFAULT_VIRTIO_FRONT_STATUS 0

/* Leg 2, the backend's side. Ids of the path: backend, mediator, handle. */
#define SVQ_PATH_SVQ_BACK "/local/domain/%u/backend/svq/%u/%u"
#define SVQ_NODE_SVQ_BACK_FRONTEND "frontend"
#define SVQ_NODE_SVQ_BACK_FRONTEND_ID "frontend-id"
#define SVQ_MAX_SVQ_BACK_FRONTEND_ID 32751
#define SVQ_NODE_SVQ_BACK_ONLINE "online"
#define SVQ_DEFAULT_SVQ_BACK_ONLINE 1
#define SVQ_NODE_SVQ_BACK_STATE "state"
#define SVQ_NODE_SVQ_BACK_TYPE "type"
#define SVQ_CHOICE_SVQ_BACK_TYPE_BLK "blk"
#define SVQ_NODE_SVQ_BACK_PARAMS "params"
#define SVQ_NODE_SVQ_BACK_MODE "mode"
#define SVQ_DEFAULT_SVQ_BACK_MODE "w"
#define SVQ_CHOICE_SVQ_BACK_MODE_R "r"
#define SVQ_CHOICE_SVQ_BACK_MODE_W "w"
#define SVQ_NODE_SVQ_BACK_DIRECT_IO "direct-io"
#define SVQ_DEFAULT_SVQ_BACK_DIRECT_IO 0
#define SVQ_NODE_SVQ_BACK_SERIAL "serial"
#define SVQ_BYTES_MAX_SVQ_BACK_SERIAL 20
#define SVQ_NODE_SVQ_BACK_QUEUES "queues"
#define SVQ_MIN_SVQ_BACK_QUEUES 1
#define SVQ_MAX_SVQ_BACK_QUEUES 64
#define SVQ_DEFAULT_SVQ_BACK_QUEUES 1
#define SVQ_NODE_SVQ_BACK_VERSION "version"
#define SVQ_MIN_SVQ_BACK_VERSION 1
#define SVQ_NODE_SVQ_BACK_DEVICE_TYPE "device-type"
#define SVQ_MIN_SVQ_BACK_DEVICE_TYPE 1
#define SVQ_MAX_SVQ_BACK_DEVICE_TYPE 63
#define SVQ_NODE_SVQ_BACK_FEATURES "features"
#define SVQ_NODE_SVQ_BACK_CONFIG "config"
#define SVQ_BYTES_MAX_SVQ_BACK_CONFIG 256
#define SVQ_NODE_SVQ_BACK_CONFIG_GENERATION "config-generation"
#define SVQ_NODE_SVQ_BACK_NUM_QUEUES "num-queues"
#define SVQ_MIN_SVQ_BACK_NUM_QUEUES 1
#define SVQ_MAX_SVQ_BACK_NUM_QUEUES 64
#define SVQ_NODE_SVQ_BACK_QUEUE_SIZE_MAX "queue-size-max"
#define SVQ_MIN_SVQ_BACK_QUEUE_SIZE_MAX 1
#define SVQ_MAX_SVQ_BACK_QUEUE_SIZE_MAX 1024
#define SVQ_NODE_SVQ_BACK_ERROR "error"
#define SVQ_BYTES_MAX_SVQ_BACK_ERROR 1024
#define SVQ_NODE_SVQ_BACK_STATS "stats"
#define SVQ_BYTES_MAX_SVQ_BACK_STATS 3072
#define SVQ_NODE_SVQ_BACK_STATS_REQUEST "stats-request"
#define SVQ_NODE_SVQ_BACK_RESIZE "resize"
#define SVQ_BYTES_MAX_SVQ_BACK_RESIZE 2048
#define SVQ_NODE_SVQ_BACK_RESIZE_REQUEST "resize-request"

/* Leg 2, the mediator's side, which plays the frontend. Ids of the path: mediator, handle. */
#define SVQ_PATH_SVQ_FRONT "/local/domain/%u/device/svq/%u"
#define SVQ_NODE_SVQ_FRONT_BACKEND "backend"
#define SVQ_NODE_SVQ_FRONT_BACKEND_ID "backend-id"
#define SVQ_MAX_SVQ_FRONT_BACKEND_ID 32751
#define SVQ_NODE_SVQ_FRONT_STATE "state"
#define SVQ_NODE_SVQ_FRONT_FEATURES_ACCEPTED "features-accepted"
#define SVQ_NODE_SVQ_FRONT_NUM_QUEUES "num-queues"
#define SVQ_MIN_SVQ_FRONT_NUM_QUEUES 1
#define SVQ_MAX_SVQ_FRONT_NUM_QUEUES 64
#define SVQ_NODE_SVQ_FRONT_QUEUE_SIZE "queue-%u/size"
#define SVQ_MIN_SVQ_FRONT_QUEUE_SIZE 1
#define SVQ_MAX_SVQ_FRONT_QUEUE_SIZE 1024
#define SVQ_NODE_SVQ_FRONT_QUEUE_DESC_REF "queue-%u/desc-ref-%u"
#define SVQ_NODE_SVQ_FRONT_QUEUE_AVAIL_REF "queue-%u/avail-ref-%u"
#define SVQ_NODE_SVQ_FRONT_QUEUE_USED_REF "queue-%u/used-ref-%u"
#define SVQ_NODE_SVQ_FRONT_QUEUE_EVENT_CHANNEL "queue-%u/event-channel"
#define SVQ_MIN_SVQ_FRONT_QUEUE_EVENT_CHANNEL 1U
#define SVQ_NODE_SVQ_FRONT_WINDOW_OWNER "window-owner"
#define SVQ_MAX_SVQ_FRONT_WINDOW_OWNER 32751
#define SVQ_NODE_SVQ_FRONT_WINDOW_FIRST "window-first"
#define SVQ_NODE_SVQ_FRONT_WINDOW_COUNT "window-count"
#define SVQ_MIN_SVQ_FRONT_WINDOW_COUNT 1U
#define SVQ_NODE_SVQ_FRONT_LIFETIME "lifetime"
#define SVQ_CHOICE_SVQ_FRONT_LIFETIME_STRICT "strict"

#endif
