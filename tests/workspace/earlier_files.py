"""Files as earlier versions wrote them, byte for byte."""

RUN = """{
  "key": "0a1b2c3d4e5f6071",
  "inputs": {
    "prepared set": "aa11bb22cc33dd44",
    "training.steps": 6,
    "data.source": null,
    "code of pikavae/model": {
      "model/autoencoder.py": "0123456789abcdef"
    }
  },
  "created": "2026-11-25T03:34:25.694000+00:00",
  "config": {
    "data": {
      "source": "sprites"
    },
    "training": {
      "steps": 6,
      "start": null
    }
  },
  "extends": {
    "run": "f00",
    "step": 4
  }
}
"""
TRAIN = """{
  "snapshot": "step-00000006",
  "start_step": 0,
  "steps": 6,
  "images_seen": 24,
  "images_per_second": 31.25,
  "best_step": 4,
  "experiment_id": "1",
  "snapshot_sha256": {
    "config.json": "aa",
    "diffusion_pytorch_model.safetensors": "bb"
  }
}
"""
IMPORTED = """{
  "imported": "hub:some/vae",
  "steps": 0,
  "best_step": 0,
  "images_seen": 0,
  "snapshot": "step-00000000",
  "experiment_id": "2",
  "snapshot_sha256": {
    "config.json": "aa"
  }
}
"""
PRUNED = """{
  "time": "2026-11-25T03:34:25.694000+00:00",
  "reason": "pruned: 10.00 dB at step 4 of 6 is worse than the median of the sweep's trials; stopped at step 5"
}
"""
CONVERTED = """{
  "source": "/of/another/vae.pt",
  "form": "LDM single file",
  "notes": [
    "norm_groups 32 is assumed: the file does not say"
  ],
  "sha256": {
    "config.json": "aa"
  }
}
"""
SET = """{
 "fingerprint": "aa11bb22cc33dd44",
 "image_size": 16,
 "crop": "center",
 "shards": [
  "s.arrow"
 ],
 "num_images": 3,
 "num_train": 2,
 "num_repeated": 0,
 "num_validation": 1,
 "num_leaked": 0,
 "num_bridging": 0,
 "num_dropped": 1,
 "num_exact_duplicates": 1,
 "num_near_duplicates": 0,
 "unused": [
  {
   "name": "d.png",
   "reason": "is a duplicate of an earlier picture, and data.drop_duplicates is set"
  }
 ],
 "captions": {
  "missing": 1,
  "truncated": 0,
  "notes": {
   "missing": 1
  }
 },
 "num_quarantined": 1,
 "quarantined": [
  {
   "name": "\u00e9.png",
   "reason": "empty file"
  }
 ],
 "num_left_out": 1,
 "left_out": {
  ".psd files": 1
 },
 "set_aside": [
  {
   "name": "e.psd",
   "reason": ".psd is not read; convert it to .png",
   "kind": ".psd files"
  }
 ],
 "columns": {
  "source": {
   "image": "image",
   "caption": null
  }
 },
 "captions_from": {
  "source": {}
 },
 "warnings": [
  "Few pictures."
 ],
 "files": {
  "index.arrow": 100
 },
 "sha256": {
  "index.arrow": "cc"
 }
}
"""
OLD_SET = """{"fingerprint": "aa11bb22cc33dd44", "image_size": 16, "crop": "center", "shards": ["s.arrow"],
"num_images": 3, "num_train": 2, "num_validation": 1, "num_quarantined": 1, "of_another_version": [1],
"quarantined": [{"name": "a.png", "reason": "empty file"}], "set_aside": [{"name": "b", "reason": "is a.b"}],
"captions": {"missing": 0, "truncated": 1}, "files": {"index.arrow": 100}, "sha256": {"index.arrow": "cc"}}"""

LATENTS = """{
 "scaling_factor": 0.5,
 "shift": -0.25,
 "std": 2.0,
 "channel_means": [
  0.5,
  -1.0
 ],
 "channel_stds": [
  1.5,
  2.5
 ],
 "statistics": "of the posterior's mean over the train split",
 "model": "m1",
 "snapshot": "run:a@6",
 "prepared_set": "aa11bb22cc33dd44",
 "image_size": 16,
 "downsampling_factor": 8,
 "latent_shape": [
  2,
  2,
  2
 ],
 "logvar": false,
 "num_images": {
  "train": 23,
  "validation": 6
 },
 "batch_size": 4,
 "rows_per_shard": 1024,
 "computed_on": "cpu with 1 threads",
 "torch": "2.9.0",
 "pikavae": "0.1",
 "code of the latents": "0123456789abcdef",
 "files": {
  "train-00000-of-00001.parquet": "aa"
 }
}
"""
EVALUATION = """{
  "inputs": {
    "run": null,
    "model": "m1"
  },
  "sha256": {
    "report.json": "aa",
    "per_image.csv": "bb"
  }
}
"""
REGISTRATION = """{
  "key": "0a1b",
  "inputs": {
    "run": "a"
  },
  "version": 3
}
"""
JOB = """{
  "config": {
    "data": {
      "source": "sprites"
    }
  },
  "prepared": "/of/a/set",
  "start": null,
  "device": "cpu",
  "threads": 2,
  "processes": 1
}
"""
STATE = """{
  "step": 4,
  "images_seen": 16,
  "seconds": 2.5,
  "scores": {
    "2": 19.5,
    "4": NaN
  },
  "processes": 1,
  "sha256": {
    "model.safetensors": "aa"
  }
}
"""
UP = '{"owner": "17:1764211200", "mlflow": "http://127.0.0.1:5000", "prefect": "http://127.0.0.1:4200"}\n'
GUARDED = (
    '{"owner": "17:1764211200", "mlflow": "http://box:5000", "prefect": "http://box:4200", '
    '"api": "http://127.0.0.1:4200/api", "auth_file": "/home/me/auth"}\n'
)
UI = '{"owner": "17:1764211200", "mlflow": "http://127.0.0.1:5000", "prefect": null}\n'
OUTBOX_EVENT = """{
  "notification": {
    "id": "ledger-2-0a1b2c3d4e5f6071",
    "event": "promoted",
    "time": "2026-11-27T10:00:00.000001+00:00",
    "host": "here",
    "title": "pikavae: version 1 of pikavae is champion",
    "message": "me@here: sharper",
    "data": {
      "version": 1
    },
    "link": null,
    "picture": null
  },
  "deliveries": {
    "0a1b2c3d4e5f6071": {
      "label": "https://example.org (0a1b2c)",
      "delivered": null,
      "tries": 1,
      "tried": "2026-11-27T10:00:01.000+00:00",
      "error": "it answered with status 503"
    }
  }
}
"""
OUTBOX_STATE = """{
  "ledger": 2,
  "ledger_stamp": [
    1764211200000000000,
    2048
  ],
  "candidates": [
    "0a1b2c3d4e5f6071.json"
  ],
  "complaint": "",
  "is_disk_low": false
}
"""
ATTEMPT = """{
  "id": "0a1b2c3d4e5f60710a1b2c3d4e5f6071",
  "what": "sprites 64px f4 adamw",
  "started": "2026-11-27T10:00:00+00:00",
  "host": "here",
  "run": null,
  "flow_run": null,
  "link": null
}
"""

HOUSEKEEPING = """{
  "times": [
    {
      "time": "2026-11-27T03:00:00+00:00",
      "done": [
        {
          "step": "logs",
          "ok": true,
          "what": "deleted 1 older than 30 days, 5 bytes"
        }
      ]
    }
  ]
}
"""

STANDING = """{
  "version": 7,
  "champion": 3,
  "outcome": "fail",
  "metric": "psnr",
  "gain": -2.1,
  "interval": [
    -2.31,
    -1.88
  ],
  "findings": [
    "regression: fail: psnr gain -2.1"
  ],
  "comparison": "evaluations/aa11bb22cc33dd44/comparison-5566778899aabbcc.html"
}
"""

WATCH = """{
  "id": "20261127T060000Z-0a1b2c3d",
  "time": "2026-11-27T06:00:00+00:00",
  "model": "pikavae",
  "version": 3,
  "source": "/new",
  "fell": true,
  "line": "PSNR 1.20 dB worse than in its report (95 %: -1.90 to -0.60), on 40 fresh pictures",
  "findings": [
    "The champion fell"
  ],
  "metric": "psnr",
  "tolerance": 0.0,
  "num_fresh": 40,
  "num_trained_on": 2,
  "num_alike": null,
  "scores": {
    "primary_metric": "psnr"
  },
  "paired": null,
  "drift": {},
  "evaluation_set": "aa11bb22cc33dd44",
  "report": "5566778899aabbcc",
  "champion_report": "99aabbcc55667788",
  "page": "watches/20261127T060000Z-0a1b2c3d/page.html",
  "run_id": "f00",
  "experiment_id": "7"
}
"""

USAGE = """{
  "stage": "train",
  "began": "2026-11-27T20:00:00+00:00",
  "seconds": 61.204,
  "cpu_seconds": 58.91,
  "gpu_seconds": 122.408,
  "joules": 18230.5
}
"""
